"""What a training takes, from a few of its steps: memory, steps, hours and disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jsonargparse import Namespace
from lightning_fabric.utilities.apply_func import move_data_to_device

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.build_cache import expected_bytes
from petl_bench.data.cache import FrameCache
from petl_bench.data.samples import Split
from petl_bench.data.sampling import is_random
from petl_bench.errors import DataError, UsageError
from petl_bench.method import Method
from petl_bench.runs.cost import synthetic_batch
from petl_bench.runs.steps import MeasuredSteps
from petl_bench.runs.trainer_options import devices_of
from petl_bench.tasks.base import Task

#: bytes per trained parameter in fp32 beside itself: its gradient, and two moments of AdamW
_BESIDE_BYTES = 4 * 3
#: checkpoints that are there at once while one is written
_CHECKPOINTS = 3
#: of a cache whose quality nobody has chosen
_JPEG_QUALITY = 95
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
#: what a run evaluates
_EVALUATED = _SPLITS[1:]


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
        **_kept_by_evaluation(method, data, measured_steps, devices_of(trainer), trainer.num_nodes),
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


def _kept_by_evaluation(
    method: Method, data: VideoTextDataModule, steps: MeasuredSteps, devices: int, nodes: int
) -> dict[str, Any]:
    """What evaluation keeps of the clips of the larger of the splits that a run evaluates, beside their features.

    Returns:
        `evaluation_clips`, None if nothing says how many there are; `evaluation_memory_bytes` of the host for each
        process, and `evaluation_disk_bytes` of temporary files on each machine: 0 where a task keeps nothing, None
        where the clips are not known.
    """
    clips = max((number for split in _EVALUATED if (number := _samples_of(data, split))), default=None)
    batch = synthetic_batch(method.backbone.spec, 1, data.frames, data.max_words)
    with steps.evaluating(method) as device:
        share = -(-(clips or 1) // (devices * nodes))
        kept = method.task.kept_by_evaluation(method.backbone, move_data_to_device(batch, device), share)
    memory, disk = (0, 0) if kept is None else (None, None) if clips is None else (kept.memory, kept.disk * devices)
    return {"evaluation_clips": clips, "evaluation_memory_bytes": memory, "evaluation_disk_bytes": disk}


def _samples_of(data: VideoTextDataModule, split: Split) -> int | None:
    """How many clips a split has by its files, or else by the protocol."""
    try:
        return len(data.samples(split))
    except DataError:
        return data.protocol.videos.get(split)


def cache_bytes(data: VideoTextDataModule) -> dict[str, Any]:
    """What a frame cache of all splits takes (`petl-bench data cache`), by what it keeps.

    Where the clips are there, some are opened (as `data cache` does), and a frame of a few of them is made a JPEG. What
    the description of an entry takes (1 to 2 kB a clip) is not in it.

    Returns:
        `cache_clips`, and `cache_clips_found`: whether they were opened; otherwise sizes are the most that it takes.
        `cache_jpeg_quality`, of the data module or the usual one; `cache_bytes` by `grid`, `chosen`, `jpeg_grid` and
        `jpeg_chosen`: None where it is not known, and of `chosen` where a sampling draws frames.
    """
    quality = data.jpeg_quality or _JPEG_QUALITY
    pixels, jpeg = (replace(data.clip_loader, jpeg_quality=number) for number in (None, quality))
    profiles = {"grid": pixels.profile, "chosen": pixels.chosen_profile}
    profiles |= {"jpeg_grid": jpeg.profile, "jpeg_chosen": jpeg.chosen_profile}
    sizes: dict[str, int | None] = dict.fromkeys(profiles)
    try:
        clips = data.clips()
        count, opened = len(clips), True
        sizes |= {kind: expected_bytes(FrameCache(data.root, profile), clips) for kind, profile in profiles.items()}
    except DataError:
        count, opened = sum(_samples_of(data, split) or 0 for split in _SPLITS), False
        most = count * data.frames * pixels.profile.frame_bytes
        sizes |= {kind: most for kind in ("grid", "chosen") if profiles[kind].sampling is not None}
    if is_random(data.sampling):
        sizes |= {"chosen": None, "jpeg_chosen": None}
    return {
        "cache_clips": count or None,
        "cache_clips_found": opened,
        "cache_jpeg_quality": quality,
        "cache_bytes": {kind: size or None for kind, size in sizes.items()},
    }


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
