"""`petl-bench plan`: memory, steps, hours and disk of a run, from real training steps at the recipe's size."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from petl_bench.commands.inspection import inspect, parser_of
from petl_bench.data.base import VideoTextDataModule
from petl_bench.formats import number
from petl_bench.machine.output import print_table
from petl_bench.method import Method
from petl_bench.ranges import Count, argument
from petl_bench.runs.planning import cache_bytes, estimated
from petl_bench.runs.steps import CPU_CLIPS
from petl_bench.storage.files import free_bytes


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs the command.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    parser = parser_of(
        "plan",
        "Estimates memory, steps, hours and disk of a run from a few of its training steps, and the disk of a frame "
        "cache from some of the clips, where they are there. Weights are random and no clip is trained on.",
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
    figures |= cache_bytes(data)
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
        *_evaluation_rows(figures),
        *_cache_rows(figures),
    ]
    print_table(f"{figures['method']} on {figures['backbone']}", ("", ""), rows, left=1)
    scaled = "" if figures["measured_clips"] == figures["clips_per_process"] else ", scaled to the batch"
    print(
        f"from steps of {figures['measured_clips']} clips on {figures['measured_on']} in {figures['precision']}"
        f"{scaled}; hours are without reading clips, communication between processes and evaluation"
    )


def _evaluation_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What re-ranking keeps; nothing of a task that does not rank again."""
    memory, disk = figures["evaluation_memory_bytes"], figures["evaluation_disk_bytes"]
    if memory is None:
        return [("tokens of re-ranking", "unknown: nothing says how many clips are evaluated")]
    clips = f"{figures['evaluation_clips']:,} clips"
    rows = [("tokens of re-ranking", f"{decimal(memory)} of host memory a process ({clips})")]
    if disk:
        free, folder = free_bytes(Path(tempfile.gettempdir())), tempfile.gettempdir()
        told = "" if free is None else f", {decimal(free)} free"
        rows.append(("beyond tokens_in_memory", f"{decimal(disk)} of temporary files of a machine ({folder}{told})"))
    return rows if memory or disk else []


def _cache_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What `petl-bench data cache` would write."""
    sizes = {kind: None if size is None else decimal(size) for kind, size in figures["cache_bytes"].items()}

    def kept(kind: str) -> str:
        grid, chosen = sizes[f"{kind}grid"] or "unknown", sizes[f"{kind}chosen"]
        return grid if chosen in (None, grid) else f"{grid}, {chosen} with --keep chosen"

    if not figures["cache_clips_found"]:  # by the number of clips alone
        return [("frame cache, at most", f"{kept('')} (no clips below data.root)")]
    return [
        ("frame cache", f"{kept('')} ({figures['cache_clips']:,} clips)"),
        (f"with data.jpeg_quality {figures['cache_jpeg_quality']}", f"{kept('jpeg_')} (other pixels)"),
    ]
