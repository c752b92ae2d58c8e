"""`petl-bench plan`: memory, steps, hours and disk of a run, from real training steps at the recipe's size."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from petl_bench.commands.inspection import inspect, parser_of
from petl_bench.data.base import VideoTextDataModule
from petl_bench.formats import number
from petl_bench.machine.output import print_table
from petl_bench.method import Method
from petl_bench.ranges import Count, argument
from petl_bench.runs.planning import estimated
from petl_bench.runs.steps import CPU_CLIPS


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
    figures = estimated(method, data, options.trainer, options.steps, options.clips, options.rows)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        _show(figures)
    return 0


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
