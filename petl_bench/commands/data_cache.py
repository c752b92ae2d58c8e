"""`petl-bench data cache`: decodes the clips of a dataset once, into frames that all runs share."""

from __future__ import annotations

import argparse

from petl_bench.cli.arguments import possible_path
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.build_cache import build, summary
from petl_bench.data.cache import FrameCache
from petl_bench.data.sampling import is_random
from petl_bench.errors import DataError, UsageError
from petl_bench.machine.cpus import allowed_cpus
from petl_bench.ranges import Processes, argument

#: clips that are named
_NAMED = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--cache", type=possible_path, help="folder of the cache (default: data.cache of the configuration)"
    )
    parser.add_argument(
        "--workers", type=argument(Processes), default=allowed_cpus(), help="decoding processes (default: %(default)s)"
    )
    parser.add_argument(
        "--keep",
        choices=("grid", "chosen"),
        default="grid",
        help="of each clip: `grid` for every sampling and number of frames at data.frame_rate, or `chosen` for those "
        "alone that data.sampling and data.frames choose (default: %(default)s)",
    )
    parser.add_argument("--recheck", action="store_true", help="read all frames again, and decode the damaged ones")


def run(data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Builds the cache of a data module whose `spec` is set, and says what it did.

    Raises:
        UsageError: no folder is given, or only chosen frames are to be kept of a sampling that draws them.
        CheckpointError: the cache cannot be written, or the disk has too little room.
        DataError: a clip cannot be read and `bad_videos` is `error`; all others are cached then.
    """
    data.cache = options.cache or data.cache
    if data.cache is None:
        raise UsageError("no folder for the cache: give --cache DIR, or set data.cache")
    only_chosen = options.keep == "chosen"
    if only_chosen and is_random(data.sampling):
        raise UsageError(f"--keep chosen: data.sampling {data.sampling} chooses other frames each time: leave it out")
    loader = data.clip_loader
    cache = FrameCache(data.cache, loader.chosen_profile if only_chosen else loader.profile)
    outcomes = build(cache, data.clips(), options.workers, recheck=options.recheck)
    print(f"{cache.folder}\n{summary(outcomes)}")
    if (quality := data.jpeg_quality) is not None:
        print(f"frames are JPEG of quality {quality}, other pixels: runs read them with data.jpeg_quality {quality}")
    renewed = [o.clip.path.name for o in outcomes if o.did == "renewed"]
    if renewed:
        shown = ", ".join(renewed[:_NAMED]) + (", ..." if len(renewed) > _NAMED else "")
        print(f"read otherwise than by the earlier version, and made again: {shown}")
    unreadable = [f"{o.clip.path.name} ({o.reason})" for o in outcomes if o.did == "unreadable"]
    if unreadable and data.bad_videos == "error":
        raise DataError(
            f"{len(unreadable)} of {len(outcomes)} clips cannot be cached: {'; '.join(unreadable[:10])}"
            + ("; ..." if len(unreadable) > 10 else "")
        )
    return 0
