"""`petl-bench data verify`: decodes every clip of a dataset in a process of its own and writes what it found.

A file can end its decoder, fill the memory or block for ever: nothing of that must reach the process that asks. So each
file gets a process, which is killed after a while and has an upper limit of memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from petl_bench.cpus import allowed_cpus
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.display import Orientation
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.manifest import FILE_NAME, Entry, read_manifest, write_manifest
from petl_bench.data.reader import READING_RULES, VideoError, VideoReader
from petl_bench.data.samples import Split
from petl_bench.data.video import PyAVReader, WholeStream, open_video, require_reader
from petl_bench.errors import DataError, UsageError
from petl_bench.machine import require_temporary_folder
from petl_bench.ranges import Positive, Processes, argument
from petl_bench.results import ResultError, file_sha256
from petl_bench.signals import STOP, as_helper, starting_helpers

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
#: frames that both decoders are asked for, and the mean difference in levels beyond which they disagree
_COMPARED, _TOLERANCE = 5, 5.0
#: what the server of processes imports first
_SERVER = "petl_bench.data.decoders"
#: frames decoded at once
_CHUNK = 32


class Task(NamedTuple):
    """A file to look at.

    Attributes:
        id: of its video.
        path: the file.
        root: of the dataset.
        former: what an earlier version found in the file as it is now; None if there is nothing.
    """

    id: str
    path: Path
    root: Path
    former: Entry | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--manifest", type=Path, help=f"what to write (default: {FILE_NAME} in the dataset's root)")
    parser.add_argument(
        "--workers", type=argument(Processes), default=allowed_cpus(), help="files at once (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=argument(Positive), default=20, help="seconds for one file (default: %(default)s)"
    )
    parser.add_argument("--memory", type=argument(Positive), default=4, help="GiB for one file (default: %(default)s)")
    parser.add_argument("--recheck", action="store_true", help="look at files again that are in the manifest unchanged")
    parser.add_argument(
        "--compare",
        choices=["decord"],
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
        print(f"{entry.path}: {'; '.join(entry.warnings)}")
    if len(warned) > 10:
        print(f"... and warnings about {len(warned) - 10} more files")
    wrong = [entry for entry in entries if entry.status in ("bad", "missing")]
    if wrong:
        shown = "; ".join(f"{entry.path or entry.id} ({entry.reason})" for entry in wrong[:20])
        raise DataError(f"{len(wrong)} of {len(entries) - counts['extra']} clips: {shown}{'; ...' * (len(wrong) > 20)}")
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
    shown = Counter(entry.display for entry in videos if entry.display)
    if shown:
        yield "shown otherwise than stored: " + ", ".join(f"{count} {how}" for how, count in sorted(shown.items()))


def _agrees(entry: Entry) -> bool:
    return abs(entry.header_fps - entry.fps) <= 0.05 * entry.fps


@dataclass(frozen=True)
class Limits:
    """Files at once, seconds and GiB for one file."""

    workers: int
    seconds: float
    gibibytes: float


def verify(
    data: VideoTextDataModule, manifest: Path, limits: Limits, recheck: bool = False, compare: str | None = None
) -> list[Entry]:
    """Looks at every clip that a split names; what an earlier, killed call found is kept.

    What an earlier version called good is opened, but not decoded again.

    Args:
        data: the dataset.
        manifest: appended to while this runs, replaced as a whole at the end.
        limits: of the processes.
        recheck: look at unchanged files again.
        compare: a second reader that good videos are opened with.

    Returns:
        Entries of all clips, those without a file and those that no split names included.

    Raises:
        DataError: there is no folder of clips, or the manifest cannot be read or written.
    """
    clips = data.clip_files()
    if clips is None:
        raise DataError(f"no folder of clips at {data.root / data.videos}: set data.root and data.videos")
    known = read_manifest(manifest, tolerate_cut=True) if manifest.is_file() and not recheck else {}
    named = {video: name for split in _SPLITS for video, name in data.clip_names(split).items()}
    by_name = clips.find(named.values())
    files = {video: by_name[name] for video, name in named.items() if name in by_name}
    present = [video for video in named if video in files]
    unchanged = {video: known[video] for video in present if _unchanged(known.get(video), files[video])}
    found = {v: entry for v, entry in unchanged.items() if entry.rules == READING_RULES and not compare}
    tasks = [Task(video, files[video], data.root, unchanged.get(video)) for video in present if video not in found]
    STOP.advice = f"; what was found is kept in {manifest}: the same command goes on from there".__str__
    try:
        with manifest.open("a", encoding="utf-8") as log:
            log.write("\n")  # a line that a kill has cut short ends here
            for entry in inspect_all(tasks, limits, compare):
                found[entry.id] = entry
                log.write(entry.line())
                log.flush()
        absent = [Entry(video, "", "missing", "no file") for video in named if video not in files]
        extra = [
            Entry(video, str(path.relative_to(data.root)), "extra", "in no split")
            for video, path in clips.unused(files.values()).items()
            if video not in named
        ]
        entries = [*found.values(), *absent, *extra]
        write_manifest(manifest, entries)
    except OSError as error:
        raise DataError(f"cannot write the manifest {manifest}: {error.strerror}; set --manifest") from error
    return entries


def _unchanged(entry: Entry | None, path: Path) -> bool:
    if entry is None or entry.status not in ("ok", "bad"):
        return False
    status = path.stat()
    return (entry.bytes, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)


class _Running(NamedTuple):
    """A process that looks at a file, what it speaks through, and when it is killed.

    It speaks about the file, and if it compares readers, about that: a second time, since that may be its end.
    """

    task: Task
    compares: bool
    process: BaseProcess
    pipe: Connection
    deadline: float


def inspect_all(tasks: Sequence[Task], limits: Limits, compare: str | None = None) -> Iterator[Entry]:
    """Entries in the order in which the files are done, with a progress bar."""
    # A server that has imported everything forks quickly, and has no threads that a fork would leave behind.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_SERVER, __name__])
    with starting_helpers():
        resource_tracker.ensure_running()  # first, since it ends by letting signals through
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    waiting = iter(tasks)
    running: dict[Any, _Running] = {}
    with Progress(*columns, disable=not tasks) as progress:
        bar = progress.add_task("verifying", total=len(tasks))
        try:
            while True:
                for task in waiting:
                    mine, its = context.Pipe(duplex=False)
                    process = context.Process(target=_inspect, args=(its, task, compare, limits.gibibytes), daemon=True)
                    with starting_helpers():
                        process.start()
                    its.close()
                    deadline = time.monotonic() + limits.seconds
                    running[process.sentinel] = _Running(task, compare is not None, process, mine, deadline)
                    if len(running) == limits.workers:
                        break
                if not running:
                    return
                soonest = min(one.deadline for one in running.values())
                ended = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
                late = [key for key, one in running.items() if one.deadline <= time.monotonic()]
                for key in dict.fromkeys([*ended, *late]):
                    yield _outcome(running.pop(key), limits.seconds)
                    progress.advance(bar)
        finally:
            for one in running.values():
                one.process.kill()


def _outcome(one: _Running, seconds: float) -> Entry:
    """What a process said about its file, or why it said nothing; the process is gone afterwards."""
    late = one.process.is_alive()
    if late:
        one.process.kill()
    one.process.join()
    end = f"takes more than {seconds:g} s" if late else f"ends the process (exit code {one.process.exitcode})"
    said: list[Any] = []
    try:
        while one.pipe.poll():
            said.append(one.pipe.recv())
    except EOFError:
        pass
    finally:
        one.pipe.close()
    if not said:
        return _about(one.task, "bad", f"decoding {end}")
    entry: Entry = said[0]
    if not one.compares or entry.status != "ok":
        return entry
    differences: list[str] = said[1] if len(said) > 1 else [f"decord: decoding {end}"]
    return replace(entry, warnings=[*entry.warnings, *differences])


def _about(task: Task, status: Literal["ok", "bad"], reason: str = "", **found: Any) -> Entry:
    size = task.path.stat()
    path = str(task.path.relative_to(task.root))
    return Entry(
        task.id, path, status, reason, bytes=size.st_size, mtime_ns=size.st_mtime_ns, rules=READING_RULES, **found
    )


def _inspect(pipe: Connection, task: Task, compare: str | None, gibibytes: float) -> None:
    """In the process of a file: says what PyAV finds, then where another reader disagrees."""
    as_helper()
    _limit_memory(gibibytes)
    entry = inspect_file(task)
    pipe.send(entry)
    if compare and entry.status == "ok":
        pipe.send([] if task.path.suffix.lower() in IMAGE_SUFFIXES else disagreements(task.path, compare))
    pipe.close()


def _limit_memory(gibibytes: float) -> None:
    """Lets this process take that much more than it has; the libraries' address space is large and costs nothing."""
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return  # not on Linux, or without /proc: nobody says what is used
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + int(gibibytes * 1024**3)
    if most == resource.RLIM_INFINITY or limit < most:  # else whoever set that limit was stricter
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def inspect_file(task: Task) -> Entry:
    """Decodes a whole file; the entry says what it is, or why it is bad."""
    found: dict[str, Any] = {}
    try:
        known = task.former.frames if task.former is not None and task.former.status == "ok" else None
        with open_video(task.path, known_frames=known) as video:
            former = task.former if task.former is not None and _still_holds(task.former, video) else None
            found["sha256"] = former.sha256 if former else file_sha256(task.path)
            found |= {"width": video.info.width, "height": video.info.height}
            if not isinstance(video, PyAVReader):
                return _about(task, "ok", codec=task.path.suffix[1:].lower(), frames=1, **found)
            whole = WholeStream(former.frames, former.codec) if former else video.decode_whole()
        found |= {"codec": whole.codec, "frames": whole.frames} | _described(video)
        if whole.frames != video.info.num_frames:
            told = f"{video.info.num_frames} frames are announced and {whole.frames} can be decoded"
            return _about(task, "bad", told, **found)
        return _about(task, "ok", **found)
    except (VideoError, ResultError) as error:
        return _about(task, "bad", str(error).removeprefix(f"{task.path.absolute()}: "), **found)
    except MemoryError:
        return _about(task, "bad", "decoding takes more memory than --memory", **found)


def _still_holds(former: Entry, video: VideoReader) -> bool:
    """Whether an earlier version decoded just these frames, so that they need not be decoded again."""
    return former.status == "ok" and former.frames == video.info.num_frames and bool(former.sha256)


def _described(video: PyAVReader) -> dict[str, Any]:
    """When and how frames are shown."""
    timing, frames = video.timing, video.info.num_frames
    rate = "unknown" if timing.problem else "constant" if timing.times is None else "variable"
    warnings = [f"{timing.problem}: it can be read with data.frame_rate null only"] if timing.problem else []
    return {
        "rate": rate,
        "fps": round(timing.fps, 3),
        "header_fps": round(video.header_fps, 3),
        "duration": round(frames / timing.fps, 3) if timing.fps else 0.0,
        "rotation": 0 if video.orientation.mirrored else video.orientation.turned,
        "display": "" if video.orientation == Orientation() else str(video.orientation),
        "warnings": warnings,
    }


def disagreements(path: Path, reader: str) -> list[str]:
    """Where another reader gives other frames than PyAV."""
    with open_video(path) as ours:
        wanted = np.linspace(0, ours.info.num_frames - 1, _COMPARED).astype(int)
        frames = ours.read(wanted)
        try:
            with open_video(path, reader) as theirs:
                if theirs.info.num_frames != ours.info.num_frames:
                    return [f"{reader} counts {theirs.info.num_frames} frames, PyAV {ours.info.num_frames}"]
                others = theirs.read(wanted)
        except VideoError as error:
            return [f"{reader} cannot read it ({str(error).rsplit(': ', 1)[-1]})"]
    if others.shape != frames.shape:
        return [
            f"{reader} gives frames of {others.shape[2]}x{others.shape[1]}, PyAV of {frames.shape[2]}x{frames.shape[1]}"
        ]
    differ = np.abs(frames.astype(int) - others).mean(axis=(1, 2, 3)) > _TOLERANCE
    return [f"{reader} gives other pictures for frames {', '.join(map(str, wanted[differ]))}"] if differ.any() else []
