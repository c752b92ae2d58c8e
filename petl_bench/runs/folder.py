"""The folder of a run: its name, its lock, its configuration, its adapter."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from safetensors.torch import load, save

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.qa import QuestionAnswerDataModule
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub.names import HubName, hub_name
from petl_bench.lightning_seams import current_rank
from petl_bench.machine.resources import exhausted
from petl_bench.method import Method, own_options
from petl_bench.renamed import as_written_today
from petl_bench.runs.description import describe
from petl_bench.runs.earlier import earlier_checkpoint, lock_of
from petl_bench.runs.experiment import Experiment
from petl_bench.runs.hub_adapters import local_adapter
from petl_bench.runs.record import (
    ADAPTER_NAME,
    CONFIG_NAME,
    FILE_NAME,
    METRICS_NAME,
    TEST_NAME,
    Contents,
    config_hash,
    ranks_beside,
    read_result,
    run_directory,
)
from petl_bench.runs.rehearsal import rehearse
from petl_bench.runs.transfer import trained_elsewhere, transfer_name
from petl_bench.storage.adapters import Adapter, write_adapter
from petl_bench.storage.checkpoints import BEFORE_LAST, LAST, resumable, sweep
from petl_bench.storage.descriptions import KEY as DESCRIPTION
from petl_bench.storage.files import make_ours, write_atomically, write_bytes_atomically
from petl_bench.storage.locks import HeldError, file_lock
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import UnreadableError, expanded, read_text
from petl_bench.tasks.base import PredictionFile, Task
from petl_bench.tasks.questions import QuestionTask


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
            stack.enter_context(file_lock(path))
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
        rank_zero_warn(f"{path} cannot be continued, it starts over: {error}")
        return []
    return [row for row in rows if (row.get("step") or "").isdecimal() and int(row["step"]) < steps]


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

    @property
    def adapter(self) -> Path:
        """What is tested, or trained."""
        given = self.config.get("ckpt_path") if self.kind == "test" else None
        return local_adapter(given) if given else self.folder / ADAPTER_NAME

    @property
    def ranks_name(self) -> str:
        """File name of the ranks in `folder`."""
        return ranks_beside(self.folder / self.record_name).name

    def predictions_name(self, file: PredictionFile) -> str:
        """File name of predictions in `folder`: those on other data than was trained on leave its own as they are."""
        if self.record_name in (FILE_NAME, TEST_NAME):
            return file.name
        kind, elsewhere = Path(file.name), Path(self.record_name).stem.removeprefix("test_")
        return f"{kind.stem}_{elsewhere}{kind.suffix}"

    def changed_options(self) -> dict[str, tuple[Any, Any]]:
        """Options of the method that are not those in `config.yaml`, which an adapter was trained with: before, now."""
        path = self.adapter.with_name(CONFIG_NAME)
        if self.kind != "test" or not path.is_file():
            return {}
        try:
            found, _ = as_written_today(parse_yaml(read_text(path), str(path)))
            before = own_options(found["model"])
        except (UnreadableError, UsageError, AttributeError, KeyError, TypeError):  # of something else than our runs
            rank_zero_warn(f"{path} cannot be read: whether the adapter was trained with these options is unknown")
            return {}
        now = own_options(self.config["model"])
        return {key: (before[key], now[key]) for key in before.keys() & now.keys() if before[key] != now[key]}

    def write_config(self) -> None:
        """`config.yaml`, fully resolved: `petl-bench fit --config` of it repeats the run."""
        write_atomically(self.folder / CONFIG_NAME, yaml.safe_dump(self.config, sort_keys=False))

    @rank_zero_only
    def write_adapter(self, method: Method, data: VideoTextDataModule) -> None:
        """What was trained, as safetensors, with all that it takes to load it."""
        described = describe(self.config, method, data, self.folder).as_metadata()
        adapter = Adapter(method.trained_state(), {**method.identity(), DESCRIPTION: described})
        write_adapter(self.folder / ADAPTER_NAME, adapter)

    @rank_zero_only
    def write_predictions(self, batches: list[Any], method: Method, data: VideoTextDataModule) -> Path:
        """What a `predict` pass on one process gave, in the order of the split; the file that it is written to."""
        with _writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        file = _in_form_of(data, batches, method.task)
        path = self.folder / self.predictions_name(file)
        write_bytes_atomically(path, file.content)
        print(f"{file.summary}: {path}")
        return path


def name_run(command: str, experiment: Experiment) -> Run:
    """Chooses the folder of a run: of a test of a checkpoint that of the checkpoint. Nothing is written.

    Results of an adapter of the Hub go to `runs_dir`, in `hf-hub/<owner>/<name>/<commit>`.

    Raises:
        DataError: an annotation file cannot be read.
        UsageError: a package that the end of the run needs is missing.
    """
    method, data, options = experiment.method, experiment.data, experiment.run
    if not _is_dry(command, experiment):
        rehearse()
        data.annotations_sha256()  # what cannot be read is told now
    config, contents = experiment.config, contents_of(method, data)
    seed, digest = options.seed_everything, config_hash(config, contents)
    if command != "fit" and options.ckpt_path:
        path = local_adapter(options.ckpt_path)
        kept = command != "validate" and not experiment.trainer.fast_dev_run
        elsewhere = kept and trained_elsewhere(method, data, path)
        name = transfer_name(method, data) if elsewhere else TEST_NAME
        hub = hub_name(options.ckpt_path)
        folder = path.parent if hub is None else _folder_for(hub, options.runs_dir, path)
        return Run(folder, "test", config, digest, seed, name, contents=contents)
    folder = run_directory(expanded(options.runs_dir), data.dataset, method.slug, method.backbone.name, digest, seed)
    return Run(folder, "fit", config, digest, seed, FILE_NAME, contents=contents)


def _folder_for(hub: HubName, runs_dir: str, adapter: Path) -> Path:
    """Where results of an adapter of the Hub go: nothing is written to the cache."""
    return expanded(runs_dir).joinpath("hf-hub", *hub.repository.split("/"), adapter.parent.name)


def _is_dry(command: str, experiment: Experiment) -> bool:
    return bool(experiment.trainer.fast_dev_run) or command in ("validate", "predict")


def open_run(run: Run, command: str, experiment: Experiment, stack: ExitStack) -> Run:
    """Creates the folder of a run and says whether it goes on.

    A test of a checkpoint writes `test.json` beside it, one on other data a file of its own (`transfer_name`). A
    complete folder of the same name is refused without `overwrite`; an interrupted run goes on after its last
    checkpoint, or with `overwrite` is set aside. So does one that the same command began under another hash, see
    `petl_bench.runs.earlier`. No other process gets the folder until `stack` is closed.

    Raises:
        UsageError: if the run is complete already, or another process is at work in its folder.
        CheckpointError: if the folder cannot be created or written to.
    """
    data, overwrite, dry = experiment.data, experiment.run.overwrite, _is_dry(command, experiment)
    if run.kind == "test":
        if command != "validate":
            if hub_name(experiment.run.ckpt_path) is not None:
                with _writing_to(run.folder):
                    run.folder.mkdir(parents=True, exist_ok=True)
            _require_writable(run.folder, run.record_name, run.ranks_name)
        return run
    writes = current_rank() == 0 and not dry
    if writes:
        stack.enter_context(locked(run.folder))  # before its files are looked at
        with _writing_to(run.folder), suppress(FileNotFoundError):
            (run.folder / CONFIG_NAME).stat()
    resumed = None
    if command == "fit" and not (dry or overwrite):
        resumed = resumable(run.folder)
        if not resumed and not (run.folder / FILE_NAME).is_file():
            weights = experiment.method.backbone.weights["sha256"]
            resumed = earlier_checkpoint(run.folder, run.config, data.annotations_sha256(), weights, experiment.resolve)
    run = replace(run, resumed=resumed)
    if writes:
        _create(run, overwrite, data)
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


def _in_form_of(data: VideoTextDataModule, batches: list[Any], task: Task) -> PredictionFile:
    """Predictions in the form of the dataset's own evaluation, where it has one; else in the task's."""
    file = task.prediction_file(batches)
    if file.name.endswith(".safetensors"):
        return file._replace(content=_naming_rows(file.content, data))
    if not isinstance(data, QuestionAnswerDataModule) or not isinstance(task, QuestionTask):
        return file
    form = data.submission({id: answer for batch in batches for id, answer in batch})
    return file if form is None else file._replace(content=json.dumps(form, indent=1).encode())


def _naming_rows(content: bytes, data: VideoTextDataModule) -> bytes:
    """Tensors with the files, times and captions that their rows are of, as JSON in the metadata.

    One entry, as safetensors writes several in random order: the same predictions are the same file.
    """
    return save(load(content), {"rows": json.dumps(data.test_rows())})
