"""What a training takes, from a few of its steps: memory, steps, hours and disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace

from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.runs.steps import MeasuredSteps
from petl_bench.runs.trainer_options import devices_of
from petl_bench.tasks.base import Task

#: bytes per trained parameter in fp32 beside itself: its gradient, and two moments of AdamW
_BESIDE_BYTES = 4 * 3
#: checkpoints that are there at once while one is written
_CHECKPOINTS = 3


def estimated(
    method: Method,
    data: VideoTextDataModule,
    trainer: Namespace,
    timed: int = 2,
    clips: int | None = None,
    rows: int | None = None,
) -> dict[str, Any]:
    """Takes training steps exactly as `fit` does, on synthetic batches of one process's size, and says what follows.

    Args:
        method: adapted.
        data: of the training; its clips are not read.
        trainer: options of Lightning's trainer, with their objects made.
        timed: steps that count.
        clips: of a step; else as many as fit this machine.
        rows: of an epoch; else as the annotation files have.

    Raises:
        UsageError: there is nothing to train, or no whole number of epochs and batches.
    """
    measured_steps = MeasuredSteps(trainer, timed)
    processes = devices_of(trainer) * trainer.num_nodes
    if not method.trainable:
        raise UsageError(f"{method.label} trains nothing, so there is nothing to plan; use test")
    if data.batch_size % processes:
        raise UsageError(
            f"data.batch_size {data.batch_size} is global and must be a multiple of {processes} processes "
            "(trainer.devices times trainer.num_nodes)"
        )
    epochs = trainer.max_epochs
    if epochs is None or epochs < 1:
        raise UsageError(f"trainer.max_epochs is {epochs}: a plan needs the number of epochs")
    share = data.batch_size // processes
    rows = training_rows(data, rows)
    steps = epochs * data.batches_of(rows)
    measured_clips = min(share, measured_steps.clips(clips, share))
    with _chunk_in_proportion(method.task, measured_clips, share):
        measured = measured_steps.take(method, data, measured_clips)
    hours = steps * share / measured["clips_per_s"] / 3600
    trainable = method.parameter_counts()["trainable"]
    return {
        "method": method.label,
        "backbone": method.backbone.name,
        "measured_on": measured["device"],
        "precision": measured["precision"],
        "measured_clips": measured["clips_per_step"],
        "clips_per_s": measured["clips_per_s"],
        "processes": processes,
        "clips_per_process": share,
        "memory_bytes": memory_bytes(method, measured, share),
        "rows": rows,
        "epochs": epochs,
        "steps": steps,
        "hours": hours,
        "device_hours": hours * processes,
        "adapter_bytes": 4 * trainable,
        "checkpoint_bytes": _CHECKPOINTS * 12 * trainable,
    }


@contextmanager
def _chunk_in_proportion(task: Task, clips: int, share: int) -> Iterator[None]:
    """A smaller batch has smaller chunks, so that as large a part of it is embedded twice."""
    chunk = task.chunk
    if chunk is not None and chunk < share:
        task.chunk = max(1, chunk * clips // share)
    try:
        yield
    finally:
        task.chunk = chunk


def memory_bytes(model: Method, measured: dict[str, Any], share: int) -> int:
    """Peak memory of one process with `share` clips.

    The allocator's own figure where all of them were measured on a GPU. Otherwise what is kept per clip for the
    backward pass, scaled, and the weights; buffers that live for a moment only are not in it.
    """
    if measured["peak_allocated_bytes"] is not None and measured["clips_per_step"] == share:
        return int(measured["peak_allocated_bytes"])
    weights = measured["weight_bytes"] + _BESIDE_BYTES * model.parameter_counts()["trainable"]
    kept = min(share, model.task.chunk or share)
    return int(measured["saved_activation_bytes"] * kept / measured["clips_kept"] + weights)


def training_rows(data: VideoTextDataModule, given: int | None) -> int:
    """Rows of an epoch: as given, or counted in the annotation files, or the protocol's.

    Raises:
        UsageError: nothing says how many there are.
    """
    if given is not None:
        return given
    every = data.train_captions == "all"
    if all(path.is_file() for path in data.annotation_files().values()):
        samples = data.samples("train")
        return sum(len(sample.captions) for sample in samples) if every else len(samples)
    expected = (data.protocol.captions if every else data.protocol.videos).get("train")
    if expected is None:
        raise UsageError(
            f"{data.protocol.id}: how many {data.texts} an epoch has is written in files that are not below "
            f"{data.root}; set data.root, or give --rows"
        )
    return expected
