"""`petl-bench profile`: what a configuration costs, from a few training steps on synthetic clips.

Weights are random; neither weight files nor a dataset need be there.
"""

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
from petl_bench.runs.cost import count_gmacs
from petl_bench.runs.steps import CPU_CLIPS, MeasuredSteps


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs the command.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    parser = parser_of(
        "profile",
        "Prints parameters, GMACs, and memory and speed of training steps on synthetic clips. Weights are random and "
        "no dataset is read.",
    )
    parser.add_argument("--steps", type=argument(Count), default=5, help="timed training steps (5)")
    parser.add_argument(
        "--clips", type=argument(Count), help=f"clips per step (a GPU: the configuration's batch; a CPU: {CPU_CLIPS})"
    )
    return inspect(profile, parser, arguments, plugins)


def profile(method: Method, data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Prints parameters, GMACs, and memory and speed of training steps on synthetic clips."""
    counts, steps = method.parameter_counts(), MeasuredSteps(options.trainer, options.steps)
    gmacs = count_gmacs(method.eval().backbone, method.task, data.frames, data.max_words)
    clips = steps.clips(options.clips, data.batch_size)
    figures: dict[str, Any] = {
        "method": method.label,
        "backbone": method.backbone.name,
        "frames": data.frames,
        "max_words": data.max_words,
        "trainable_params": counts["trainable"],
        "total_params": counts["total"],
        "gmacs_vision": gmacs.vision,
        "gmacs_total": gmacs.total,
        "train": steps.take(method, data, clips) if method.trainable else None,
    }
    if options.json:
        print(json.dumps(figures, indent=2))
        return 0
    train = figures.pop("train") or {}
    print_table("profile", ("", ""), [(name, _shown(value)) for name, value in (figures | train).items()], left=1)
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str("-" if value is None else value)
