"""`petl-bench plan`: memory, steps, hours and disk of a run, from real training steps at the recipe's size."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from petl_bench.commands.inspection import inspect, parser_of
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.formats import number
from petl_bench.machine.output import print_table
from petl_bench.method import Method
from petl_bench.ranges import Count, argument
from petl_bench.runs.steps import CPU_CLIPS, MeasuredSteps
from petl_bench.runs.trainer_options import devices_of

#: bytes per trained parameter in fp32: itself, its gradient, and two moments of AdamW
_TRAINED_BYTES = 4 * 4
#: checkpoints that are there at once while one is written
_CHECKPOINTS = 3


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs the command.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    parser = parser_of(
        "plan",
        "Estimates memory, steps, hours and disk of a run from a few of its training steps. Weights are random and no "
        "clip is read.",
    )
    parser.add_argument("--steps", type=argument(Count), default=2, help="timed training steps (2)")
    parser.add_argument(
        "--clips",
        type=argument(Count),
        help=f"clips per measured step (a GPU: one process's share; a CPU: {CPU_CLIPS})",
    )
    parser.add_argument(
        "--rows", type=argument(Count), help="rows of a training epoch (counted in the annotation files)"
    )
    return inspect(plan, parser, arguments, plugins)


def plan(method: Method, data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Takes training steps exactly as `fit` does, on synthetic batches of one process's size, and says what follows.

    Raises:
        UsageError: there is nothing to train, or no whole number of epochs and batches.
    """
    measured_steps = MeasuredSteps(options.trainer, options.steps)
    processes = devices_of(options.trainer) * options.trainer.num_nodes
    if not method.trainable:
        raise UsageError(f"{method.label} trains nothing, so there is nothing to plan; use test")
    if data.batch_size % processes:
        raise UsageError(
            f"data.batch_size {data.batch_size} is global and must be a multiple of {processes} processes "
            "(trainer.devices times trainer.num_nodes)"
        )
    epochs = options.trainer.max_epochs
    if epochs is None or epochs < 1:
        raise UsageError(f"trainer.max_epochs is {epochs}: a plan needs the number of epochs")
    share = data.batch_size // processes
    rows = training_rows(data, options.rows)
    steps = epochs * data.batches_of(rows)
    measured = measured_steps.take(method, data, min(share, measured_steps.clips(options.clips, share)))
    hours = steps * share / measured["clips_per_s"] / 3600
    trainable = method.parameter_counts()["trainable"]
    figures = {
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
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        _show(figures)
    return 0


def memory_bytes(model: Method, measured: dict[str, Any], share: int) -> int:
    """Peak memory of one process with `share` clips.

    The allocator's own figure where all of them were measured on a GPU. Otherwise what is kept per clip for the
    backward pass, scaled, and the weights; buffers that live for a moment only are not in it.
    """
    clips = measured["clips_per_step"]
    if measured["peak_allocated_bytes"] is not None and clips == share:
        return int(measured["peak_allocated_bytes"])
    counts = model.parameter_counts()
    weights = 4 * (counts["total"] - counts["trainable"]) + _TRAINED_BYTES * counts["trainable"]
    return int(measured["saved_activation_bytes"] * share / clips + weights)


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


def _show(figures: dict[str, Any]) -> None:
    gib = 1024**3
    rows = [
        ("training steps", f"{figures['steps']:,} ({figures['epochs']} epochs of {figures['rows']:,} rows)"),
        ("processes x clips", f"{figures['processes']} x {figures['clips_per_process']}"),
        ("memory of a process", f"{number(figures['memory_bytes'] / gib)} GiB"),
        ("hours", number(figures["hours"])),
        ("device-hours", number(figures["device_hours"])),
        ("adapter file", f"{number(figures['adapter_bytes'] / 1e6, 1)} MB"),
        ("checkpoints, at most", f"{number(figures['checkpoint_bytes'] / 1e6, 1)} MB"),
    ]
    print_table(f"{figures['method']} on {figures['backbone']}", ("", ""), rows, left=1)
    scaled = "" if figures["measured_clips"] == figures["clips_per_process"] else ", scaled to the batch"
    print(
        f"from steps of {figures['measured_clips']} clips on {figures['measured_on']} in {figures['precision']}"
        f"{scaled}; reading clips, communication between processes and evaluation are not included"
    )
