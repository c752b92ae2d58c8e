"""The folder of a run: its name, its configuration, its adapter, its record."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.video import reader_version
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.machine.arithmetic import cpu_arithmetic
from petl_bench.machine.output import console
from petl_bench.machine.resources import exhausted
from petl_bench.method import Method
from petl_bench.renamed import as_written_today
from petl_bench.runs.cost import CostMeter
from petl_bench.runs.earlier import Resolve, earlier_checkpoint, lock_of
from petl_bench.runs.environment import environment
from petl_bench.runs.recipe import Recipe
from petl_bench.runs.record import (
    CONFIG_NAME,
    FILE_NAME,
    HASH_RULES,
    SCHEMA,
    Contents,
    config_hash,
    read_result,
    require_valid,
    run_directory,
    write_result,
)
from petl_bench.runs.rehearsal import rehearse
from petl_bench.storage.adapters import Adapter, write_adapter
from petl_bench.storage.checkpoints import BEFORE_LAST, LAST, ResumePoints, resumable, sweep
from petl_bench.storage.files import FileError, file_sha256, make_ours, write_atomically, write_bytes_atomically
from petl_bench.storage.locks import HeldError, held
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import UnreadableError, expanded, read_text
from petl_bench.tasks.base import Evaluation

ADAPTER_NAME, RANKS_NAME, METRICS_NAME = "adapter.safetensors", "ranks.npz", "metrics.csv"
#: what is known of the record before the evaluation; there until the record is
DRAFT_NAME = "record.draft.json"
#: what the record of a test says of the training behind its adapter
TRAINED = ("epochs", "steps", "recipe", "changed", "limits")

Draft = dict[str, Any]


@contextmanager
def _writing_to(folder: Path, advice: str = "set --runs_dir") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else folder
        raise exhausted(error, folder) or CheckpointError(
            f"cannot write to {named}: {error.strerror}; {advice}"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine out of a run's folder; the lock ends with the process, however it ends.

    Raises:
        UsageError: another process is at work in it.
        CheckpointError: the folder cannot be written to, or the lock file not be opened.
    """
    path = lock_of(folder)
    with _writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except HeldError as error:
            raise UsageError(
                f"another process is at work in {folder}: wait for it, or change seed_everything or --runs_dir"
            ) from error
        except OSError as error:
            raise exhausted(error, path) or _no_lock(path, error) from error
        yield


def _no_lock(path: Path, error: OSError) -> CheckpointError:
    if not os.path.lexists(path):  # and could not be made
        return CheckpointError(f"cannot write to {path.parent}: {error.strerror}; set --runs_dir")
    return CheckpointError(
        f"the lock file {path} cannot be opened: {error.strerror}; have its owner delete it or make it readable "
        "(chmod g+r), or set another --runs_dir"
    )


def earlier_metrics(folder: Path, steps: int) -> list[dict[str, str]]:
    """The rows of `metrics.csv` before a step, which a resumed run would otherwise lose."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except (UnreadableError, csv.Error) as error:
        rank_zero_warn(f"{path} cannot be continued, it begins anew: {error}")
        return []
    return [row for row in rows if (row.get("step") or "").isdecimal() and int(row["step"]) < steps]


class Training(NamedTuple):
    """What the record says of a training beside its costs.

    Attributes:
        points: how it was resumed.
        recipe: what it is held against.
        limits: by what callbacks cut it short.
        callbacks: class paths of the user's own classes that took part.
    """

    points: ResumePoints
    recipe: Recipe | None
    limits: Mapping[str, str]
    callbacks: Sequence[str]

    def described(self, config: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
        """The `train` block of a record from its costs and course."""
        train = train | {"recipe": _plain(self.recipe), "limits": limits_of(config, train) | dict(self.limits)}
        return train | ({"callbacks": list(self.callbacks)} if self.callbacks else {})


@dataclass(frozen=True)
class Run:
    """One run and where its files go.

    Attributes:
        folder: `runs/<dataset>/<method>/<backbone>/<hash>/seed<k>`.
        kind: `fit`, or `test` of what an earlier run trained.
        config: fully resolved.
        config_hash: of what is measured, without seed and with content in the place of paths.
        seed: of training.
        record_name: file name of the record in `folder`.
        resumed: the checkpoint of an interrupted run of this name, which it is continued from.
        contents: what stands for paths in `config` where runs are compared.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    config_hash: str
    seed: int
    record_name: str
    resumed: Path | None = None
    contents: Contents = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Short name of a run: configuration and seed."""
        return f"{self.config_hash[:8]}-seed{self.seed}"

    def changed_options(self) -> dict[str, tuple[Any, Any]]:
        """Options of the method that are not those in `config.yaml`, which an adapter was trained with: before, now."""
        path = self.folder / CONFIG_NAME
        if self.kind != "test" or not path.is_file():
            return {}
        try:
            found, _ = as_written_today(parse_yaml(read_text(path), str(path)))
            before = _method_options(found)
        except (UnreadableError, UsageError, AttributeError, KeyError, TypeError):  # of something else than our runs
            rank_zero_warn(f"{path} cannot be read: whether the adapter was trained with these options is unknown")
            return {}
        now = _method_options(self.config)
        return {key: (before[key], now[key]) for key in before.keys() & now.keys() if before[key] != now[key]}

    def write_config(self) -> None:
        """`config.yaml`, fully resolved: `petl-bench fit --config` of it repeats the run."""
        write_atomically(self.folder / CONFIG_NAME, yaml.safe_dump(self.config, sort_keys=False))

    @rank_zero_only
    def write_adapter(self, method: Method) -> None:
        """What was trained, as safetensors."""
        write_adapter(self.folder / ADAPTER_NAME, Adapter(method.trained_state(), method.identity()))

    @rank_zero_only
    def write_predictions(self, batches: list[Any], method: Method) -> None:
        """What a `predict` pass on one process gave, in the order of the split."""
        with _writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        file = method.task.prediction_file(batches)
        write_bytes_atomically(self.folder / file.name, file.content)
        print(f"{file.summary}: {self.folder / file.name}")

    @rank_zero_only
    def show(self, method: Method, data: VideoTextDataModule) -> None:
        """Prints the figures of the last evaluation."""
        print_figures(f"{method.label} on {data.dataset} ({data.protocol.id})", _evaluation(method).record)

    @rank_zero_only
    def begin_record(self, trainer: Trainer, method: Method, data: VideoTextDataModule, selection: str) -> Draft:
        """The record as far as it is known before anything is done, which the schema must have nothing against.

        Whatever is gone, changed or broken afterwards does not cost the figures. A run keeps it in its folder, where
        `petl-bench record` finds it if the run does not come to write its record.

        Raises:
            FileError: it cannot be written.
        """
        env = environment() | {"decoder": f"{data.reader} {reader_version(data.reader)}"} | _hardware(trainer, data)
        draft = self.draft(method, data, selection, str(trainer.precision), env)
        require_valid(self.folder / DRAFT_NAME, draft)
        if self.record_name == FILE_NAME:
            write_result(self.folder / DRAFT_NAME, draft)
        return draft

    @rank_zero_only
    def note_training(
        self,
        draft: Draft,
        trainer: Trainer,
        method: Method,
        data: VideoTextDataModule,
        meter: CostMeter,
        training: Training,
    ) -> None:
        """Adds what is known after a training; that it cannot be kept is no reason to lose the evaluation."""
        if trainer.global_step:
            draft["train"] = training.described(
                self.config, meter.training(trainer, data, method.recipe) | training.points.history()
            )
        self.describe_adapter(draft)
        try:
            write_result(self.folder / DRAFT_NAME, draft)
        except FileError as error:
            rank_zero_warn(str(error))

    def describe_adapter(self, draft: Draft) -> None:
        """Adds what there is to say of the adapter's file to a draft."""
        adapter = self._adapter
        draft["model"]["adapter_bytes"] = adapter.stat().st_size if adapter.is_file() else None
        draft["integrity"]["adapter_sha256"] = _known_sha256(adapter)

    @rank_zero_only
    def finish(
        self, trainer: Trainer, method: Method, data: VideoTextDataModule, meter: CostMeter, draft: Draft
    ) -> None:
        """Prints the figures, writes ranks and, last, the record; a folder without a record is not a complete run."""
        evaluation = _evaluation(method)
        try:
            ranks = io.BytesIO()
            np.savez_compressed(ranks, allow_pickle=False, **evaluation.ranks)
            write_bytes_atomically(self.folder / self._ranks_name, ranks.getvalue())
            gmacs = meter.gmacs
            draft["model"] |= {
                "gmacs_vision": gmacs.vision if gmacs else None,
                "gmacs_total": gmacs.total if gmacs else None,
            }
            draft["env"] |= _hardware(trainer, data)
            figures = evaluation.record | {"cost": meter.evaluation(evaluation)}
            complete(self.folder / self.record_name, draft, figures, hashlib.sha256(ranks.getvalue()).hexdigest())
        finally:
            self.show(method, data)  # also where they cannot be written
        print(f"record: {self.folder / self.record_name}")

    @property
    def _adapter(self) -> Path:
        """What was tested, or trained."""
        given = self.config.get("ckpt_path") if self.kind == "test" else None
        return expanded(given) if given else self.folder / ADAPTER_NAME

    @property
    def _ranks_name(self) -> str:
        return RANKS_NAME if self.record_name == FILE_NAME else "test_ranks.npz"

    def draft(
        self, method: Method, data: VideoTextDataModule, selection: str, precision: str, env: dict[str, Any]
    ) -> Draft:
        """A record without training, costs and figures.

        Args:
            method: adapted.
            data: set up.
            selection: which epoch is reported.
            precision: of the evaluation, in Lightning's words.
            env: the record's block.
        """
        counts = method.parameter_counts()
        weights = method.backbone.weights
        draft = {
            "schema": SCHEMA,
            "status": "interrupted",
            "origin": "fixture" if data.is_fixture() else "measured",
            "kind": self.kind,
            "id": {
                "config_hash": self.config_hash,
                "hash_rules": HASH_RULES,
                "run_id": self.run_id,
                "seed": self.seed,
            },
            "protocol": data.protocol_record()
            | {
                "metric_version": method.task.metric_version,
                "tie_rule": method.task.tie_rule,
                "selection": selection,
                "inference": {"clips": 1, "precision": precision, "temperature": None, **method.task.inference()},
            },
            "model": {
                "method": method.label,
                "method_config": _method_options(self.config),
                "backbone": method.backbone.name,
                "weights_sha256": weights["sha256"],
                "pretraining_data": weights["source"],
                "weights": {key: weights.get(key) for key in ("file", "activation", "described_by", "assumed")},
                "trainable_params": counts["trainable"],
                "total_params": counts["total"],
                "trainable_by_modality": {k: v for k, v in counts.items() if k not in ("trainable", "total")},
                "adapter_bytes": None,
                "gmacs_vision": None,
                "gmacs_total": None,
                **({"trained": _trained(self._adapter)} if self.kind == "test" else {}),
            },
            "train": None,
            "eval": None,
            "env": env | {"manifest_sha256": _known_sha256(data.manifest)},
            "integrity": {
                "ranks_sha256": None,
                "adapter_sha256": None,
                "config_sha256": _known_sha256(self.folder / CONFIG_NAME),
            },
        }
        if self.kind == "test":
            self.describe_adapter(draft)
        return draft


def name_run(
    command: str, options: Namespace, resolved: dict[str, Any], method: Method, data: VideoTextDataModule
) -> Run:
    """Chooses the folder of a run: of a test of a checkpoint that of the checkpoint. Nothing is written.

    Raises:
        DataError: an annotation file cannot be read.
        UsageError: a package that the end of the run needs is missing.
    """
    if not _is_dry(command, options):
        rehearse()
        data.annotations_sha256()  # what cannot be read is told now
    contents = contents_of(method, data)
    seed, digest = options.seed_everything, config_hash(resolved, contents)
    if command != "fit" and options.ckpt_path:
        folder = expanded(options.ckpt_path).parent
        return Run(folder, "test", resolved, digest, seed, "test.json", contents=contents)
    folder = run_directory(expanded(options.runs_dir), data.dataset, method.slug, method.backbone.name, digest, seed)
    return Run(folder, "fit", resolved, digest, seed, FILE_NAME, contents=contents)


def _is_dry(command: str, options: Namespace) -> bool:
    return bool(options.trainer.fast_dev_run) or command in ("validate", "predict")


def open_run(
    run: Run,
    command: str,
    options: Namespace,
    resolve: Resolve,
    method: Method,
    data: VideoTextDataModule,
    held: ExitStack,
) -> Run:
    """Creates the folder of a run and says whether it goes on.

    A test of a checkpoint writes `test.json` beside it. A complete folder of the same name is refused without
    `overwrite`; an interrupted run goes on after its last checkpoint, or with `overwrite` is set aside. Until `held`
    is closed no other process gets the folder. So does one that the same command began under another hash, see
    `petl_bench.runs.earlier`.

    Raises:
        UsageError: if the run is complete already, or another process is at work in its folder.
        CheckpointError: if the folder cannot be created or written to.
    """
    dry = _is_dry(command, options)
    if run.kind == "test":
        if command != "validate":
            _require_writable(run.folder, "test.json", "test_ranks.npz")
        return run
    writes = rank_zero_only.rank == 0 and not dry
    if writes:
        held.enter_context(locked(run.folder))  # before its files are looked at
        with _writing_to(run.folder), suppress(FileNotFoundError):
            (run.folder / CONFIG_NAME).stat()
    resumed = None
    if command == "fit" and not (dry or options.overwrite):
        resumed = resumable(run.folder)
        if not resumed and not (run.folder / FILE_NAME).is_file():
            annotations, weights = data.annotations_sha256(), method.backbone.weights["sha256"]
            resumed = earlier_checkpoint(run.folder, run.config, annotations, weights, resolve)
    run = replace(run, resumed=resumed)
    if writes:
        _create(run, options.overwrite, data)
    return run


def contents_of(method: Method, data: VideoTextDataModule) -> Contents:
    """What stands for paths in a resolved configuration, by block of options."""
    return {
        "data.init_args": data.contents(),
        "model.init_args": method.contents(),
        "model.init_args.backbone.init_args": method.backbone.contents(),
        "model.init_args.task.init_args": method.task.contents(),
    }


def _create(run: Run, overwrite: bool, data: VideoTextDataModule) -> None:
    if (run.folder / FILE_NAME).is_file() and not overwrite:
        raise UsageError(_complete(run.folder, data))
    with _writing_to(run.folder):
        leftovers = any((run.folder / name).exists() for name in (FILE_NAME, ADAPTER_NAME, LAST, BEFORE_LAST))
        if leftovers and run.resumed is None:
            _set_aside(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        sweep(run.folder)
        make_ours(run.folder / METRICS_NAME)  # which is added to
        run.write_config()


def _complete(folder: Path, data: VideoTextDataModule) -> str:
    if read_result(folder / FILE_NAME)["protocol"]["split_sha256"] == data.annotations_sha256():
        return f"this run is complete: {folder}; add --overwrite true to repeat it, or change seed_everything"
    return (
        f"{folder} holds a complete run of this configuration on other annotation files: set another --runs_dir, or "
        "--overwrite true to put that run aside"
    )


def _known_sha256(path: Path | None) -> str | None:
    try:
        return None if path is None else file_sha256(path)
    except FileError:
        return None


def _require_writable(folder: Path, *names: str) -> None:
    if not folder.is_dir():
        return  # whoever reads the adapter says so
    advice = "results go beside the adapter: copy it and config.yaml to another folder"
    for name in names:
        if (folder / name).is_dir():
            raise CheckpointError(f"cannot write {folder / name}, which is a folder; {advice}")
    with _writing_to(folder, advice), tempfile.TemporaryFile(dir=folder):
        pass


def _set_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.replaced{number}")).exists():
        number += 1
    try:
        folder.rename(aside)
    except OSError as error:
        if error.errno != errno.EXDEV:  # of a folder in a lower layer of a container's file system
            raise
        shutil.move(folder, aside)


def complete(path: Path, draft: Draft, figures: dict[str, Any], ranks_sha256: str) -> None:
    """Writes the record that a draft was of; of a run's own record the draft is gone afterwards.

    Raises:
        FileError: it cannot be written.
    """
    record = draft | {"status": "complete", "eval": figures}
    record["integrity"] = draft["integrity"] | {"ranks_sha256": ranks_sha256}
    write_result(path, record)
    if path.name == FILE_NAME:
        with suppress(OSError):
            path.with_name(DRAFT_NAME).unlink(missing_ok=True)


def print_figures(title: str, record: dict[str, Any]) -> None:
    """Prints what an evaluation found as a table."""
    from rich.table import Table
    from rich.text import Text

    (first, *titles), *rows = _figures(record)
    table = Table(title=Text(title))
    table.add_column(first)
    for name in titles:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)


def _figures(record: dict[str, Any]) -> list[list[str]]:
    """What an evaluation found, as rows of text below a header."""
    if "accuracy" in record:
        figures = [("all", record["accuracy"], record["n"])]
        figures += [(name, value, record["n_per_type"][name]) for name, value in record["per_type"].items()]
        return [["questions", "accuracy", "n"], *([name, f"{value:.1f}", str(n)] for name, value, n in figures)]
    names = ("R1", "R5", "R10", "R50", "MdR", "MnR")
    directions = {key: value for key, value in record.items() if isinstance(value, dict) and "R1" in value}
    rows = [[key, *(f"{values[n]:.1f}" for n in names), str(values["n"])] for key, values in directions.items()]
    return [["direction", *names, "n"], *rows]


def _evaluation(method: Method) -> Evaluation:
    assert method.evaluation is not None, "an evaluation ends before its record is written"
    return method.evaluation


def limits_of(config: dict[str, Any], train: dict[str, Any]) -> dict[str, str]:
    """What a user set to train on less than the recipe says, if it did that."""
    options = config["trainer"]
    given = {name: options.get(name) for name in ("limit_train_batches", "overfit_batches", "max_time")}
    whole = {("limit_train_batches", "1.0"), ("overfit_batches", "0.0")}  # 1 is one batch
    limits = {key: str(value) for key, value in given.items() if value is not None and (key, str(value)) not in whole}
    epochs, steps = options.get("max_epochs"), options.get("max_steps")
    ended = epochs is not None and train["epochs"] == epochs
    return limits if steps != train["steps"] or ended else limits | {"max_steps": str(steps)}


def _plain(recipe: Recipe | None) -> dict[str, Any] | None:
    return None if recipe is None else recipe._asdict()


def _trained(adapter: Path) -> dict[str, Any] | None:
    """What the record beside an adapter says of its training; None unless it is that of this adapter."""
    try:
        record = read_result(adapter.with_name(FILE_NAME))
        if record["train"] is None or record["integrity"]["adapter_sha256"] != file_sha256(adapter):
            return None
    except FileError:  # no record, or a faulty one, is no reason to lose an evaluation
        return None
    return {name: record["train"][name] for name in TRAINED if name in record["train"]}


def _method_options(config: dict[str, Any]) -> dict[str, Any]:
    """The method's own arguments, without backbone, task and optimiser, which have places of their own."""
    given = config["model"].get("init_args") or {}
    return {key: value for key, value in given.items() if key not in ("backbone", "task", "optimizer")}


def _hardware(trainer: Trainer, data: VideoTextDataModule) -> dict[str, Any]:
    found: dict[str, Any] = {
        "frame_cache": data.frame_cache_record(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **cpu_arithmetic(),
    }
    if trainer.strategy.root_device.type != "cuda":
        return found
    return found | {
        "cuda": torch.version.cuda,
        "driver": _driver(Path("/proc/driver/nvidia/version")),
        "cudnn": _dotted(torch.backends.cudnn.version()),
        "nccl": _nccl(),
        "gpu": torch.cuda.get_device_name(trainer.strategy.root_device),
        "gpu_count": trainer.world_size,
    }


def _dotted(version: int | None) -> str | None:
    """cuDNN's version from the number that it gives, 90100 for 9.1.0."""
    return None if version is None else f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _nccl() -> str | None:
    if not torch.distributed.is_nccl_available():
        return None
    from torch.cuda import nccl

    return ".".join(map(str, nccl.version()))


def _driver(version: Path) -> str | None:
    """The version of NVIDIA's kernel driver, as the driver itself writes it into a file."""
    with suppress(OSError):
        found = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)\s", version.read_text(encoding="utf-8", errors="replace"))
        return found[1] if found else None
    return None
