"""The record of a run while it grows: begun before anything is done, and complete when there are figures.

Each part gives its own block (`Method.record`, `VideoTextDataModule.record`, `CostMeter.record`); here they are merged.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.choice import ChoiceDataModule
from petl_bench.hub.names import hub_name
from petl_bench.method import Method, own_options
from petl_bench.runs.cost import CostMeter
from petl_bench.runs.environment import environment, hardware
from petl_bench.runs.figures import print_figures
from petl_bench.runs.folder import Run
from petl_bench.runs.queries import queries_of
from petl_bench.runs.recipe import Recipe
from petl_bench.runs.record import (
    CONFIG_NAME,
    FILE_NAME,
    HASH_RULES,
    SCHEMA,
    merged,
    read_result,
    require_valid,
    write_result,
)
from petl_bench.runs.transfer import trained_elsewhere
from petl_bench.storage.checkpoints import ResumePoints
from petl_bench.storage.files import FileError, file_sha256, known_sha256, write_bytes_atomically
from petl_bench.tasks.base import Evaluation

#: what is known of the record before the evaluation; there until the record is
DRAFT_NAME = "record.draft.json"
#: what the record of a test says of the training behind its adapter
TRAINED = ("epochs", "steps", "recipe", "changed", "limits")

Draft = dict[str, Any]


class Training(NamedTuple):
    """What the record says of a training beside its costs.

    Attributes:
        points: how it was resumed.
        recipe: what it is compared with.
        limits: by what callbacks cut it short.
        callbacks: class paths of the user's own classes that took part.
    """

    points: ResumePoints
    recipe: Recipe | None
    limits: Mapping[str, str]
    callbacks: Sequence[str]

    def record(self, config: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
        """The `train` block of a record from its costs and course."""
        recipe = None if self.recipe is None else self.recipe._asdict()
        train = train | self.points.history() | {"recipe": recipe}
        train["limits"] = limits_of(config, train) | dict(self.limits)
        return train | ({"callbacks": list(self.callbacks)} if self.callbacks else {})


def drafted(
    run: Run, method: Method, data: VideoTextDataModule, selection: str, precision: str, env: dict[str, Any]
) -> Draft:
    """A record without training, costs and figures.

    Args:
        run: whose record it is.
        method: adapted.
        data: set up.
        selection: which epoch is reported.
        precision: of the evaluation, in Lightning's words.
        env: the record's block.
    """
    of_run = {
        "schema": SCHEMA,
        "status": "interrupted",
        "kind": run.kind,
        "id": {"config_hash": run.config_hash, "hash_rules": HASH_RULES, "run_id": run.run_id, "seed": run.seed},
        "protocol": {"selection": selection, "inference": {"precision": precision}},
        "model": {
            "method_config": own_options(run.config["model"]),
            "adapter_bytes": None,
            "gmacs_vision": None,
            "gmacs_total": None,
            **({"trained": _trained(run.adapter)} if run.kind == "test" else {}),
            **_trained_on(run, method, data),
            **_adapter_from(run),
        },
        "train": None,
        "eval": None,
        "env": env,
        "integrity": {
            "ranks_sha256": None,
            "adapter_sha256": None,
            "config_sha256": known_sha256(run.adapter.with_name(CONFIG_NAME)),
        },
    }
    draft = merged(of_run, data.record(), method.record())
    if run.kind == "test":
        describe_adapter(run, draft)
    return draft


@rank_zero_only
def begin(run: Run, trainer: Trainer, method: Method, data: VideoTextDataModule, selection: str) -> Draft:
    """The record as far as it is known before anything is done, checked against the schema.

    Whatever is gone, changed or broken afterwards does not cost the figures. A run keeps it in its folder, where
    `petl-bench record` finds it if the run does not come to write its record.

    Raises:
        FileError: it cannot be written.
    """
    env = environment() | data.reading() | hardware(trainer)
    draft = drafted(run, method, data, selection, str(trainer.precision), env)
    require_valid(run.folder / DRAFT_NAME, draft)
    if run.record_name == FILE_NAME:
        write_result(run.folder / DRAFT_NAME, draft)
    return draft


@rank_zero_only
def note_training(
    run: Run, draft: Draft, trainer: Trainer, method: Method, data: VideoTextDataModule, meter: CostMeter, how: Training
) -> None:
    """Adds what is known after a training; that it cannot be kept is no reason to lose the evaluation."""
    if trainer.global_step:
        draft["train"] = how.record(run.config, meter.training(trainer, data, method.recipe))
    describe_adapter(run, draft)
    try:
        write_result(run.folder / DRAFT_NAME, draft)
    except FileError as error:
        rank_zero_warn(str(error))


def describe_adapter(run: Run, draft: Draft) -> None:
    """Adds what there is to say of the adapter's file to a draft."""
    adapter = run.adapter
    draft["model"]["adapter_bytes"] = adapter.stat().st_size if adapter.is_file() else None
    draft["integrity"]["adapter_sha256"] = known_sha256(adapter)


@rank_zero_only
def finish(
    run: Run,
    draft: Draft,
    trainer: Trainer,
    method: Method,
    data: VideoTextDataModule,
    meter: CostMeter,
    record_words: bool,
) -> dict[str, Any]:
    """Prints the figures, writes ranks and, last, the record; a folder without a record is not a complete run."""
    evaluation = evaluation_of(method)
    try:
        ranks = io.BytesIO()
        arrays = queries_of(data.samples("test"), record_words) | evaluation.ranks
        np.savez_compressed(ranks, allow_pickle=False, **arrays)
        write_bytes_atomically(run.folder / run.ranks_name, ranks.getvalue())
        env = {"env": data.reading() | hardware(trainer)}
        figures = merged(draft, env, {"eval": evaluation.record}, meter.record(evaluation))
        record = complete(run.folder / run.record_name, figures, hashlib.sha256(ranks.getvalue()).hexdigest())
    finally:
        show(method, data)  # also where they cannot be written
    print(f"record: {run.folder / run.record_name}")
    return record


def complete(path: Path, draft: Draft, ranks_sha256: str) -> dict[str, Any]:
    """Writes a draft that has its figures as a record; of a run's own record the draft is gone afterwards.

    Raises:
        FileError: it cannot be written.
    """
    record = merged(draft, {"status": "complete", "integrity": {"ranks_sha256": ranks_sha256}})
    write_result(path, record)
    if path.name == FILE_NAME:
        with suppress(OSError):
            path.with_name(DRAFT_NAME).unlink(missing_ok=True)
    return record


@rank_zero_only
def show(method: Method, data: VideoTextDataModule) -> None:
    """Prints the figures of the last evaluation."""
    headline = data.headline if isinstance(data, ChoiceDataModule) else "accuracy"
    print_figures(f"{method.label} on {data.dataset} ({data.protocol.id})", evaluation_of(method).record, headline)


def evaluation_of(method: Method) -> Evaluation:
    """What the last evaluation found."""
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


def _trained_on(run: Run, method: Method, data: VideoTextDataModule) -> dict[str, Any]:
    """What an adapter says it was trained for and on, where that was elsewhere."""
    origin = trained_elsewhere(method, data, run.adapter)
    if origin is None or origin.data is None:
        return {}
    on = origin.data
    told = {"protocol": on.protocol, "split_sha256": on.split_sha256, "videos": len(on.video_hashes)}
    return {"trained_on": {"task": origin.task, **told}}


def _adapter_from(run: Run) -> dict[str, str]:
    """Of an adapter of the Hub, its repository and commit."""
    name = hub_name(run.config.get("ckpt_path")) if run.kind == "test" else None
    return {} if name is None else {"adapter_from": str(name.at(run.adapter.parent.name))}


def _trained(adapter: Path) -> dict[str, Any] | None:
    """What the record beside an adapter says of its training; None unless it is that of this adapter."""
    try:
        record = read_result(adapter.with_name(FILE_NAME))
        if record["train"] is None or record["integrity"]["adapter_sha256"] != file_sha256(adapter):
            return None
    except FileError:  # no record, or a faulty one, is no reason to lose an evaluation
        return None
    trained = {name: record["train"][name] for name in TRAINED if name in record["train"]}
    quality = record["protocol"].get("preprocess", {}).get("jpeg_quality")
    return trained if quality is None else trained | {"jpeg_quality": quality}
