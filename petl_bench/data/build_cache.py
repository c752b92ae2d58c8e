"""Decodes the clips of a dataset once, into frames that all runs share (`petl-bench data cache`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import Dataset

from petl_bench.data.cache import Clip, DamagedEntry, FrameCache, Source
from petl_bench.data.reader import VideoError
from petl_bench.data.workers import LateLoader, as_loader
from petl_bench.errors import CheckpointError, DataError, PetlBenchError, ResourceError
from petl_bench.machine.resources import exhausted, helper_lacked_by
from petl_bench.machine.signals import STOP
from petl_bench.storage.files import free_bytes

#: clips opened to estimate the size of all, and how many of them are decoded for that where frames become JPEG
_SAMPLED, _DECODED = 32, 8
#: seconds after which an unfinished file belongs to a builder that is gone
_ABANDONED = 3600


Done = Literal["found", "decoded", "mended", "kept", "renewed"]


class Outcome(NamedTuple):
    """What became of one clip.

    Attributes:
        clip: the clip.
        did: `found` sound frames, `decoded` it, `mended` a damaged entry, `kept` what an earlier version wrote,
            `renewed` what an earlier version read otherwise, or found it `unreadable`; `unwritable` says that the cache
            cannot be written.
        source: the video file, where it could be read.
        reason: of a failure.
    """

    clip: Clip
    did: Done | Literal["unreadable", "unwritable"]
    source: Source | None = None
    reason: str = ""


def build(cache: FrameCache, clips: Sequence[Clip], workers: int, recheck: bool = False) -> list[Outcome]:
    """Decodes the clips that the cache lacks. What an earlier, killed build committed is kept.

    Args:
        cache: where to.
        clips: what to.
        workers: decoding processes; 0 decodes in this one.
        recheck: read the entries that are there, too, and decode the damaged ones again.

    Returns:
        What became of each clip, in the order of their completion.

    Raises:
        CheckpointError: the cache cannot be written, or the disk has too little room.
        DataError: a decoding process died.
        ResourceError: this machine is out of what decoding needs.
    """
    cache.write_profile()
    STOP.advice = f"; what is cached in {cache.folder} is kept: the same command goes on from there".__str__
    _sweep(cache.folder)
    require_space(cache, clips)
    loader = LateLoader(
        _Clips(cache, clips, recheck),
        batch_size=None,
        num_workers=workers,
        in_order=False,
        worker_init_fn=as_loader,
    )
    outcomes: list[Outcome] = []
    with progress_bar() as progress:
        for outcome in progress.track(_alive(loader), total=len(clips), description="caching"):
            if outcome.did == "unwritable":
                raise CheckpointError(outcome.reason)
            if outcome.source:
                cache.sources.record(outcome.source)
            outcomes.append(outcome)
    return outcomes


def require_space(cache: FrameCache, clips: Sequence[Clip]) -> None:
    """Estimates what is still to be written from a sample of the clips that are not there, and compares with the disk.

    Raises:
        CheckpointError: there is less room than that.
    """
    missing = [clip for clip in clips if not _is_there(cache, clip)]
    if not missing:
        return
    expected = expected_bytes(cache, missing)
    free = free_bytes(cache.folder)
    told = "unknown" if free is None else decimal(free)
    print(f"{len(missing)} of {len(clips)} clips to decode, about {decimal(expected)}; {told} free")
    if free is not None and expected > free:
        raise CheckpointError(
            f"{cache.folder}: the frames need about {decimal(expected)} and {decimal(free)} are free: give "
            "another --cache, lower data.frame_rate, or keep less (--keep chosen; data.jpeg_quality, other pixels)"
        )


def expected_bytes(cache: FrameCache, clips: Sequence[Clip]) -> int:
    """What the frames of clips would take, from those of some of them; 0 if none of these can be read.

    Without JPEG clips are opened, and not decoded.
    """
    sample = clips[:: -(-len(clips) // _SAMPLED)] if clips else []
    counts = [count for clip in sample if (count := _known(cache.number_of_frames, clip))]
    if not counts:
        return 0
    frame: float = cache.profile.frame_bytes
    if cache.profile.jpeg_quality is not None:
        some = sample[:: -(-len(sample) // _DECODED)]
        frame = fmean([size for clip in some if (size := _known(cache.jpeg_bytes, clip))] or [frame])
    return round(fmean(counts) * len(clips) * frame)


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many clips had which outcome, in one line."""
    always = ("decoded", "found", "mended", "unreadable")
    counts = {did: sum(o.did == did for o in outcomes) for did in (*always, "kept", "renewed")}
    return ", ".join(f"{count} {did}" for did, count in counts.items() if count or did in always)


class _Clips(Dataset[Outcome]):
    """Reading item i caches clip i."""

    def __init__(self, cache: FrameCache, clips: Sequence[Clip], recheck: bool) -> None:
        self.cache, self.clips, self.recheck = cache, clips, recheck

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Outcome:
        clip = self.clips[index]
        try:
            did = self._cached(clip)
            return Outcome(clip, did, self.cache.sources.find(clip.path))
        except VideoError as error:
            return Outcome(clip, "unreadable", reason=_without_path(error, clip.path))
        except ResourceError:
            raise
        except PetlBenchError as error:
            return Outcome(clip, "unwritable", reason=str(error))

    def _cached(self, clip: Clip) -> Done:
        taken = self.cache.take_over(clip) if self.cache.missing([clip]) else None
        try:
            if self.recheck:
                self.cache.check(clip)
            elif self.cache.missing([clip]):
                raise FileNotFoundError
        except FileNotFoundError:
            self.cache.store(clip)
            return "decoded" if taken is None else "renewed"
        except DamagedEntry:
            self.cache.store(clip)
            return "mended"
        return "kept" if taken else "found"


def _alive(loader: LateLoader) -> Iterable[Outcome]:
    try:
        yield from loader
    except (RuntimeError, OSError) as error:
        if lacking := exhausted(error) or helper_lacked_by(str(error)):
            raise lacking from error
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a decoding process died ({str(error).splitlines()[0]}): find the file with petl-bench data verify, or "
            "use fewer --workers if memory ran out; what was cached is kept"
        ) from error


def _is_there(cache: FrameCache, clip: Clip) -> bool:
    """Whether nothing is to be written, as far as can be told without opening the video."""
    try:
        return not cache.missing([clip]) or cache.has_former(clip)
    except VideoError:  # told when its turn comes
        return False


def _known(measure: Callable[[Clip], int], clip: Clip) -> int:
    try:
        return measure(clip)
    except VideoError:  # told when its turn comes
        return 0


def _sweep(folder: Path) -> None:
    """Deletes what killed builders left unfinished; the files of one at work are younger."""
    for path in folder.glob("**/.*.tmp"):
        with suppress(FileNotFoundError, PermissionError):  # of another builder who is done; of another user
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def progress_bar(console: Console | None = None) -> Progress:
    """How many files are done, and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def _without_path(error: VideoError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{path.absolute()}: ")
