"""Decodes every clip of a dataset in a process of its own and writes what it found (`petl-bench data verify`).

A file can end its decoder, fill the memory or block for ever: nothing of that must reach the process that asks. So each
file gets a process, which is killed after a while and has an upper limit of memory.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.clip_files import AmbiguousClip, ClipFiles, relative
from petl_bench.data.display import Orientation
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.manifest import Entry, entry_of, read_manifest, write_manifest
from petl_bench.data.reader import READING_RULES, VideoError, VideoReader
from petl_bench.data.samples import Split
from petl_bench.data.video import PyAVReader, WholeStream, open_video
from petl_bench.errors import DataError, ResourceError
from petl_bench.machine.resources import LESS_AT_ONCE, error_number, exhausted, helper_lacked, no_more_helpers
from petl_bench.machine.signals import STOP, as_helper, starting_helpers
from petl_bench.storage.files import FileError, file_sha256, make_ours

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
#: frames that both decoders are asked for, and the mean difference in levels beyond which they disagree
_COMPARED, _TOLERANCE = 5, 5.0
#: missing clips for which something like them is looked for
_HINTS = 3
#: what the server of processes imports first
_SERVER = "petl_bench.data.decoders"
#: what a process uses already, in pages
_USED = Path("/proc/self/statm")
#: the verdict on a file that wants more than it may have
_TOO_LARGE = "decoding takes more memory than --memory"


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
        ResourceError: this machine is out of what looking at a clip needs; of that clip nothing is written.
    """
    clips = data.clip_files()
    if clips is None:
        raise DataError(f"no folder of clips at {data.root / data.videos}: set data.root and data.videos")
    known = read_manifest(manifest, tolerate_cut=True) if manifest.is_file() and not recheck else {}
    tasks, absent = _named(data, clips, known)
    former = [task.former for task in tasks if task.former is not None]
    found = {entry.id: entry for entry in former if entry.rules == READING_RULES and not compare}
    STOP.advice = f"; what was found is kept in {manifest}: the same command goes on from there".__str__
    with _writing(manifest):
        make_ours(manifest)
        log = manifest.open("a", encoding="utf-8")
    with log:
        _append(log, manifest, "\n")  # a line that a kill has cut short ends here
        for entry in inspect_all([task for task in tasks if task.id not in found], limits, compare):
            found[entry.id] = entry
            _append(log, manifest, entry.line())
    entries = [*found.values(), *absent]
    entries += _unnamed(data, clips, {task.path for task in tasks}, {entry.id for entry in entries})
    write_manifest(manifest, entries)
    return entries


@contextmanager
def _writing(manifest: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        lacking = exhausted(error, manifest)
        unwritten = DataError(f"cannot write the manifest {manifest}: {error.strerror}; set --manifest")
        raise lacking or unwritten from error


def _append(log: IO[str], manifest: Path, line: str) -> None:
    with _writing(manifest):
        log.write(line)
        log.flush()


def _named(data: VideoTextDataModule, clips: ClipFiles, known: Mapping[str, Entry]) -> tuple[list[Task], list[Entry]]:
    """The files that splits name, each once, and the videos that have none or may have several."""
    tasks: dict[Path, Task] = {}
    absent: dict[tuple[str, ...], Entry] = {}
    known_of, ids = entry_of(known), set[str]()
    # Two splits may give one video.
    named = {names: video for split in _SPLITS for video, names in data.video_names(split).items()}
    for names, video in named.items():
        id = video if video not in ids else names[0]
        ids.add(id)
        try:
            if (path := clips.find(names)) is None:
                absent[names] = Entry(id, "", "missing", "no file")
            elif path not in tasks:
                place = relative(path, data.root)
                former = known_of(video, place)
                same = former if former is not None and _unchanged(former, path) else None
                tasks[path] = Task(id, path, data.root, same and replace(same, id=id, path=place))
        except AmbiguousClip as error:
            absent[names] = Entry(id, "", "missing", str(error))
    for names in [names for names, entry in absent.items() if entry.reason == "no file"][:_HINTS]:
        if hint := clips.hint(names[0], tasks):
            absent[names] = replace(absent[names], reason=f"no file; there is {hint}")
    return list(tasks.values()), list(absent.values())


def _unnamed(
    data: VideoTextDataModule, clips: ClipFiles, used: Collection[Path], taken: Collection[str]
) -> list[Entry]:
    """The files that no split names, by ids that are not taken."""
    ids = set(taken)
    entries = []
    for path in clips.paths:
        if path in used:
            continue
        place, id = relative(path, data.root), data.file_id(path)
        entries.append(Entry(place if id in ids else id, place, "extra", "in no split"))
        ids.add(id)
    return entries


def _unchanged(entry: Entry, path: Path) -> bool:
    if entry.status not in ("ok", "bad"):
        return False
    status = path.stat()
    return (entry.bytes, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)


class _Running(NamedTuple):
    """A process that looks at a file, what it speaks through, and when it is killed.

    It speaks about the file, and where a reader is compared, about that: a second time, since that may be its end.
    """

    task: Task
    compares: str | None
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
                    process = context.Process(
                        target=_begin, args=(_inspect, its, task, compare, limits.gibibytes), daemon=True
                    )
                    try:
                        with starting_helpers():
                            process.start()
                    except EOFError as error:  # the server that starts them could not, and is gone
                        raise no_more_helpers() from error
                    its.close()
                    deadline = time.monotonic() + limits.seconds
                    running[process.sentinel] = _Running(task, compare, process, mine, deadline)
                    if len(running) == limits.workers:
                        break
                if not running:
                    return
                soonest = min(one.deadline for one in running.values())
                ended = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
                late = [key for key, one in running.items() if one.deadline <= time.monotonic()]
                for key in dict.fromkeys([*ended, *late]):
                    yield _outcome(running.pop(key), limits)
                    progress.advance(bar)
        finally:
            for one in running.values():
                one.process.kill()


def _outcome(one: _Running, limits: Limits) -> Entry:
    """What a process said about its file, or why it said nothing; the process is gone afterwards.

    Raises:
        ResourceError: it ended for want of something that the machine lacks.
    """
    late = one.process.is_alive()
    if late:
        one.process.kill()
    one.process.join()
    end = f"takes more than {limits.seconds:g} s" if late else f"ends the process (exit code {one.process.exitcode})"
    begun, *said = _heard(one.pipe) or [None]
    if not begun:
        raise ResourceError(f"a decoding process could not begin ({end}): {LESS_AT_ONCE}")
    for word in said:
        if isinstance(word, ResourceError):
            raise word
    if not said and not late and (lacking := _of_the_machine(one.process.exitcode or 0, limits.gibibytes)):
        raise lacking
    if not said:
        return _about(one.task, "bad", f"decoding {end}")
    entry: Entry = said[0]
    if not one.compares or entry.status != "ok":
        return entry
    differences: list[str] = said[1] if len(said) > 1 else [f"{one.compares}: decoding {end}"]
    return replace(entry, warnings=[*entry.warnings, *differences])


def _heard(pipe: Connection) -> list[Any]:
    """All that a process has said."""
    words: list[Any] = []
    try:
        while pipe.poll():
            words.append(pipe.recv())
    except EOFError:
        pass
    finally:
        pipe.close()
    return words


def _of_the_machine(code: int, gibibytes: float) -> ResourceError | None:
    """What the end of a process that said nothing about its file says of the machine."""
    # C++ aborts for want of memory, which only the file's own limit may put down to the file.
    if code == -signal.SIGABRT and not _may_have(gibibytes):
        return _too_little(gibibytes)
    return helper_lacked(code)


def _about(task: Task, status: Literal["ok", "bad"], reason: str = "", **found: Any) -> Entry:
    size = task.path.stat()
    path = relative(task.path, task.root)
    return Entry(
        task.id, path, status, reason, bytes=size.st_size, mtime_ns=size.st_mtime_ns, rules=READING_RULES, **found
    )


def _begin(inspect: Callable[..., None], pipe: Connection, *arguments: Any) -> None:
    """In the process of a file: says that it has begun, since what happens before says nothing about the file."""
    as_helper()
    pipe.send("begun")
    inspect(pipe, *arguments)


def _inspect(pipe: Connection, task: Task, compare: str | None, gibibytes: float) -> None:
    """Says what PyAV finds, or what the machine lacks, then where another reader disagrees."""
    try:
        enough = _limit_memory(gibibytes)
        entry = inspect_file(task)
        pipe.send(_too_little(gibibytes) if entry.reason == _TOO_LARGE and not enough else entry)
    except Exception as error:
        if lacking := exhausted(error):
            pipe.send(lacking)
            return
        raise
    if compare and entry.status == "ok":
        pipe.send([] if task.path.suffix.lower() in IMAGE_SUFFIXES else disagreements(task.path, compare))
    pipe.close()


def _limit_memory(gibibytes: float) -> bool:
    """Lets this process take that much more than it has; the libraries' address space is large and costs nothing.

    Returns:
        False if it may have less: a lower limit of whoever started us stays.
    """
    if not _may_have(gibibytes):
        return False
    if not _USED.is_file():
        return True  # not on Linux, or without /proc: nobody says what is used
    resource.setrlimit(resource.RLIMIT_AS, (limit := _with_this(gibibytes), limit))
    return True


def _may_have(gibibytes: float) -> bool:
    """Whether the limits of this process let it take that much more than it has."""
    limits = [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return not _USED.is_file() or all(_with_this(gibibytes) <= limit for limit in limits)


def _with_this(gibibytes: float) -> int:
    used = int(_USED.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return used + int(gibibytes * 1024**3)


def _too_little(gibibytes: float) -> ResourceError:
    limit = min(limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY)
    return ResourceError(
        f"out of memory: ulimit -v is {limit // 1024}, which is less than --memory {gibibytes:g} GiB for each file: "
        "raise it, or give a --memory that fits"
    )


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
    except (VideoError, FileError) as error:
        if error_number(error.__cause__ or error) == errno.ENOMEM:
            return _about(task, "bad", _TOO_LARGE, **found)
        return _about(task, "bad", str(error).removeprefix(f"{task.path.absolute()}: "), **found)
    except MemoryError:
        return _about(task, "bad", _TOO_LARGE, **found)


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
