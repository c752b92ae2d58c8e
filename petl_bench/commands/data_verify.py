"""`petl-bench data verify`: decodes every clip of a dataset in a process of its own and writes what it found."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from petl_bench.cli.arguments import possible_path
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.manifest import FILE_NAME, Entry
from petl_bench.data.verify import Limits, verify
from petl_bench.data.video import require_reader
from petl_bench.errors import DataError, UsageError
from petl_bench.machine.cpus import allowed_cpus
from petl_bench.machine.limits import require_temporary_folder
from petl_bench.ranges import Limit, Processes, argument
from petl_bench.storage.untrusted import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--manifest", type=possible_path, help=f"what to write (default: {FILE_NAME} in the dataset's root)"
    )
    parser.add_argument(
        "--workers", type=argument(Processes), default=allowed_cpus(), help="files at once (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=argument(Limit), default=20, help="seconds for one file (default: %(default)s)"
    )
    parser.add_argument("--memory", type=argument(Limit), default=4, help="GiB for one file (default: %(default)s)")
    parser.add_argument("--recheck", action="store_true", help="look at files again that are in the manifest unchanged")
    parser.add_argument(
        "--compare",
        choices=["decord", "torchcodec"],
        help="open every good video with this reader, too, and warn where it disagrees; the FFmpeg 4.1 in decord's "
        "wheel has known holes, so only for files from people you trust",
    )


def run(data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Verifies the clips of all splits, writes the manifest, and says what is wrong.

    Raises:
        UsageError: an option is out of range.
        DataError: clips are bad or missing; they are listed, and the manifest is complete.
    """
    if options.workers < 1:
        raise UsageError(f"--workers {options.workers}: every file is looked at in a process of its own, so at least 1")
    require_temporary_folder()
    if options.compare:
        require_reader(options.compare)
    path = options.manifest or data.root / FILE_NAME
    limits = Limits(options.workers, options.timeout, options.memory)
    entries = verify(data, path, limits, options.recheck, options.compare)
    counts = {status: sum(entry.status == status for entry in entries) for status in ("ok", "bad", "missing", "extra")}
    warned = [entry for entry in entries if entry.warnings]
    print(f"{path}\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
    for line in summary(entries, data.frame_rate):
        print(line)
    for entry in warned[:10]:
        print(f"{shown(entry.path, 400)[1:-1]}: {'; '.join(entry.warnings)}")
    if len(warned) > 10:
        print(f"... and warnings about {len(warned) - 10} more files")
    wrong = [entry for entry in entries if entry.status in ("bad", "missing")]
    if wrong:
        told = "; ".join(f"{shown(entry.path or entry.id, 400)} ({entry.reason})" for entry in wrong[:20])
        raise DataError(f"{len(wrong)} of {len(entries) - counts['extra']} clips: {told}{'; ...' * (len(wrong) > 20)}")
    return 0


def summary(entries: Sequence[Entry], frame_rate: int | None) -> Iterator[str]:
    """What a reader of the figures should know about good videos whose frames are not plain; nothing if all are."""
    videos = [entry for entry in entries if entry.status == "ok" and entry.rate]
    rates = Counter(entry.rate for entry in videos)
    if rates.keys() - {"constant"}:
        other = sum(entry.rate == "variable" and not _agrees(entry) for entry in videos)
        counted = ", ".join(f"{rates[rate]} {rate}" for rate in ("constant", "variable", "unknown") if rates[rate])
        yield f"frame rates: {counted}" + (f" (the header of {other} names another one)" if other else "")
    slow = sum(0 < entry.fps < (frame_rate or 0) for entry in videos)
    if slow:
        yield f"{slow} with fewer frames per second than data.frame_rate {frame_rate}: some frames come repeatedly"
    turned = Counter(entry.display for entry in videos if entry.display)
    if turned:
        yield "shown otherwise than stored: " + ", ".join(f"{count} {how}" for how, count in sorted(turned.items()))


def _agrees(entry: Entry) -> bool:
    return abs(entry.header_fps - entry.fps) <= 0.05 * entry.fps
