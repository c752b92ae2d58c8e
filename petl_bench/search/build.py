"""Builds an index: reads what is new or changed in a folder of videos, and encodes it window by window."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from petl_bench.data.build_cache import progress_bar
from petl_bench.data.datasets import ClipLoader, stacked
from petl_bench.data.reader import VideoError
from petl_bench.data.workers import CurrentFiles, LateLoader, as_loader, reporting_lost_workers
from petl_bench.errors import NonFiniteError, UsageError
from petl_bench.inputs import Clips
from petl_bench.machine.output import console
from petl_bench.machine.signals import STOP
from petl_bench.search.index import Indexed, Rows, Stamp, Storage
from petl_bench.search.text_tower import NoTextTower, TextTower
from petl_bench.search.tracing import exported
from petl_bench.search.windows import Window, windows
from petl_bench.tasks.questions import QuestionTask
from petl_bench.video_text_model import VideoTextModel

#: windows that are encoded at once, always: in batches of another size the last bit may differ, and equal clips not tie
_BATCH = 8
#: a shard is written after so many windows or seconds, whichever comes first
_WINDOWS, _SECONDS = 512, 20.0


class _Piece(NamedTuple):
    """A window of a file, or the end of the file: then why it could not be read (on), if so."""

    file: int
    window: Window | None
    reason: str = ""


def about(model: VideoTextModel, tower: TextTower | None, reason: str) -> dict[str, Any]:
    """What an index says of its features.

    Args:
        model: that makes them.
        tower: its text tower, if that runs by itself.
        reason: why it does not.
    """
    inference = model.method.task.inference()
    two_stage = {"k": inference["rerank_k"], "beta": inference["rerank_beta"]} if inference.get("rerank_k") else None
    pooling = {name: inference[name] for name in ("pooling", "temperature") if name in inference}
    rule = model.clip_loader.rule
    return {
        "method": type(model.method).__name__,
        "backbone": model.method.backbone.name,
        "frames": {"count": rule.count, "sampling": rule.sampling, "rate": rule.rate},
        "pooling": pooling,
        "two_stage": two_stage,
        "texts_need_model": reason if tower is None else "",
    }


def require_searchable(model: VideoTextModel) -> None:
    """Refuses models whose texts and videos are in no common space.

    Raises:
        UsageError: it is one.
    """
    task = model.method.task
    if isinstance(task, QuestionTask) or "pooling" not in task.inference():
        raise UsageError(
            f"this model was made for {task.name}, which compares no texts with videos: load one of retrieval"
        )


def text_tower(model: VideoTextModel) -> tuple[TextTower | None, str]:
    """The text tower of a model if it runs by itself, or why it does not."""
    backbone, device = model.method.backbone, model.device
    try:
        return exported(backbone.cpu(), model.max_words), ""
    except NoTextTower as error:
        return None, str(error)
    finally:
        backbone.to(device)


def encode(
    model: VideoTextModel,
    storage: Storage,
    videos: Path,
    wanted: Sequence[tuple[str, Stamp]],
    seconds: int | None,
    workers: int,
) -> None:
    """Adds files to an index, with a progress bar.

    Args:
        model: that encodes them.
        storage: of the index.
        videos: folder of the files.
        wanted: files by their path below that, and what is known of them.
        seconds: length of a window; None takes each file as one.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        DataError: a decoding process died.
        FileError: the index cannot be written.
        NonFiniteError: a feature is NaN or infinite.
    """
    STOP.advice = f"; what is in {storage} is kept: the same command goes on from there".__str__
    paths = [videos / path for path, _ in wanted]
    workers = min(workers, len(wanted))
    files = CurrentFiles(workers)
    reading = _Windows(paths, replace(model.clip_loader, board=files), seconds)
    loader = LateLoader(reading, batch_size=None, num_workers=workers, worker_init_fn=as_loader)
    adding = _Adding(model, storage, wanted)
    # What is found is for another program to read.
    with reporting_lost_workers(files), progress_bar(console(stderr=True)) as progress:
        task = progress.add_task("indexing", total=len(wanted))
        for piece in loader:
            adding.take(piece)
            progress.update(task, completed=adding.ended)
        adding.finish()


class _Adding:
    """Encodes windows in batches, and adds files as soon as all of their windows are encoded.

    Attributes:
        ended: files that were read to their end.
    """

    def __init__(self, model: VideoTextModel, storage: Storage, wanted: Sequence[tuple[str, Stamp]]) -> None:
        self.model, self.storage, self.wanted = model, storage, wanted
        self.ended = 0
        self._waiting: list[tuple[int, Window]] = []
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._rows: dict[int, list[Rows]] = {}
        self._done: list[tuple[int, str]] = []
        self._began = time.monotonic()

    def take(self, piece: _Piece) -> None:
        """A window, or the end of a file."""
        if piece.window is None:
            self.ended += 1
            self._done.append((piece.file, piece.reason))
        else:
            self._waiting.append((piece.file, piece.window))
            if len(self._waiting) == _BATCH:
                self._encode()
        finished = sum(len(self._rows.get(file, ())) for file, _ in self._done)
        if finished >= _WINDOWS or time.monotonic() - self._began > _SECONDS:
            self._write()

    def finish(self) -> None:
        """Encodes and adds what is left."""
        self._encode()
        self._write()

    def _encode(self) -> None:
        if not self._waiting:
            return
        files, taken = zip(*self._waiting, strict=True)
        self._waiting = []
        found = features(self.model, [window.clip for window in taken])
        for place, (file, window) in enumerate(zip(files, taken, strict=True)):
            rows = found.select(slice(place, place + 1))
            if not rows.features.isfinite().all():
                raise NonFiniteError(f"{self.wanted[file][0]}: its features are not finite; check the model")
            self._spans.setdefault(file, []).append((window.start, window.end))
            self._rows.setdefault(file, []).append(rows)

    def _write(self) -> None:
        """Adds the files that are encoded to their end."""
        self._began = time.monotonic()
        unfinished = {file for file, _ in self._waiting}
        whole = [(file, reason) for file, reason in self._done if file not in unfinished]
        if not whole:
            return
        entries = [Indexed(*self.wanted[file], tuple(self._spans.pop(file, ())), reason) for file, reason in whole]
        self.storage.add(entries, [rows for file, _ in whole for rows in self._rows.pop(file, [])])
        self._done = [(file, reason) for file, reason in self._done if file in unfinished]


def features(model: VideoTextModel, clips: Sequence[Clips]) -> Rows:
    """Features of at most `_BATCH` windows; of frames where captions weigh them, in fp32 on the CPU."""
    batch = [*clips, *[clips[-1]] * (_BATCH - len(clips))]
    joined = stacked(batch)
    video = model.encode_clips(joined)
    if model.method.task.inference().get("pooling") != "text_conditioned":
        return Rows(video.pooled.float().cpu()).select(slice(0, len(clips)))
    return Rows(video.by_frame().float().cpu(), joined.mask).select(slice(0, len(clips)))


class _Windows(IterableDataset[_Piece]):
    """The windows of files, each file's in order; with several loader processes each has every so many-th file."""

    def __init__(self, paths: Sequence[Path], loader: ClipLoader, seconds: int | None) -> None:
        self.paths, self.loader, self.seconds = paths, loader, seconds

    def __iter__(self) -> Iterator[_Piece]:
        own = get_worker_info()
        first, step = (0, 1) if own is None else (own.id, own.num_workers)
        for file in range(first, len(self.paths), step):
            path, reason = self.paths[file], ""
            if self.loader.board is not None:
                self.loader.board.publish(path)
            try:
                for window in windows(path, self.loader, self.seconds):
                    yield _Piece(file, window)
            except VideoError as error:
                reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path.absolute()}: ")
            yield _Piece(file, None, reason)


def query_of_clip(model: VideoTextModel, path: Path) -> Tensor:
    """Features of a clip or a still that is the query, (E,).

    Raises:
        VideoError: it cannot be read.
    """
    (window,) = windows(path, model.clip_loader, None)
    return features(model, [window.clip]).features[0]


def query_of_text(model: VideoTextModel, text: str, pooling: dict[str, Any]) -> Tensor:
    """Features of a text that is the query, (E,), as captions are compared under this pooling."""
    found = model.encode_words(model.spec.tokenize([text], model.max_words))
    return (found.projected if pooling["pooling"] == "text_conditioned" else found.pooled)[0].float().cpu()
