"""A search: which index, what of it is to be made, what a query finds. The model is imported only where it must be."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from petl_bench import __version__
from petl_bench.cli.sources import source_sha256
from petl_bench.data.clip_files import VIDEO_SUFFIXES, ClipFiles
from petl_bench.data.reader import READING_RULES
from petl_bench.errors import DataError, UsageError
from petl_bench.search.index import FORMAT, Hit, Index, Indexed, Stamp, Storage, damaged
from petl_bench.search.shards import Folder
from petl_bench.search.text_tower import NoTextTower, TextTower
from petl_bench.storage.untrusted import expanded

if TYPE_CHECKING:
    from petl_bench.video_text_model import VideoTextModel

#: below the folder of videos, where an index is kept unless another place is given
_PLACE = ".petl_bench"
#: letters of its name there
_KEY = 16


@dataclass
class VideoSearch:
    """Search in a folder of videos with a trained model.

    Attributes:
        adapter: adapter file, folder of its run, or a configuration's name or path.
        videos: folder of the videos.
        seconds: length of a window; None takes each file as one.
        index: folder of the index, or a LanceDB database (`*.lance`, or an address such as `s3://bucket/name`); None
            is a folder below `videos`.
        weights: of the backbone, where they are elsewhere.
        device: where the model computes, see `petl_bench.load`.
        plugins: packages that the user trusts.
        workers: processes that decode.
    """

    adapter: str
    videos: Path
    seconds: int | None = None
    index: str | None = None
    weights: Path | None = None
    device: str | None = None
    plugins: Sequence[str] = ()
    workers: int = 0
    _model: VideoTextModel | None = field(default=None, init=False)

    def open(self, update: bool = True, retry: bool = False) -> Found:
        """The index, brought up to date with the folder.

        Args:
            update: whether files that are new or have changed are read; else they are left out.
            retry: whether those are read again, too, that could not be read.

        Raises:
            DataError: there is no folder of videos, no video in it, or none that can be read.
            UsageError: the index is of another model or of other windows, or another process adds to it.
            CheckpointError: the adapter is missing, or the index is damaged or cannot be written.
        """
        stamps, storage = _stamps(self.videos), self.storage
        if update:
            index = self._updated(storage, stamps, retry)
        elif storage.holds_one():
            index = self._there(storage)
        else:
            raise UsageError(f"there is no index at {storage} yet: leave --no-update out")
        if not any(file.spans and stamps.get(file.path) == file.stamp for file in index.files.values()):
            reason = next((f": {file.path}: {file.reason}" for file in index.failures), "")
            raise DataError(f"{self.videos}: none of {len(stamps)} videos can be searched{reason}")
        return Found(self, index, stamps)

    @property
    def model(self) -> VideoTextModel:
        """The model, which is loaded when it is first asked for.

        Raises:
            PetlBenchError: as `petl_bench.load`.
        """
        if self._model is None:
            from petl_bench.loading import load

            self._model = load(self.adapter, self.weights, self.device, self.plugins)
        return self._model

    @property
    def storage(self) -> Storage:
        """Where its index is, or will be."""
        if self.index is None:
            return Folder(self.videos / _PLACE / self.key[:_KEY])
        if "://" in self.index or self.index.rstrip("/").endswith(".lance"):
            from petl_bench.search.lance import Database

            return Database(self.index)
        return Folder(expanded(self.index))

    @cached_property
    def key(self) -> str:
        """What the features of an index follow from, as 64 hexadecimal digits."""
        said = [FORMAT, __version__, READING_RULES, source_sha256(self.adapter, self.weights), self.seconds]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _there(self, storage: Storage) -> Index:
        index = storage.open()
        if index.about.get("key") != self.key:
            about = index.about
            length = f"windows of {about.get('seconds')} s" if about.get("seconds") else "whole files"
            raise UsageError(
                f"{storage} is an index of {length} by {about.get('adapter')}, of this petl_bench or another one: give "
                "that adapter and --window, or another --index"
            )
        return index

    def _updated(self, storage: Storage, stamps: dict[str, Stamp], retry: bool) -> Index:
        if storage.holds_one():
            index = self._there(storage)
            if not _wanted(index, stamps, retry):
                return index
        else:
            from petl_bench.search.build import require_searchable

            require_searchable(self.model)  # before a folder is made
        with storage.being_written():
            if not storage.holds_one():
                self._create(storage)
            if wanted := _wanted(self._there(storage), stamps, retry):
                from petl_bench.search.build import encode

                encode(self.model, storage, self.videos, wanted, self.seconds, self.workers)
                storage.tidy(stamps)
            index = storage.open()
        _tell_failures(index, wanted)
        return index

    def _create(self, storage: Storage) -> None:
        from petl_bench.search.build import about, text_tower

        tower, reason = text_tower(self.model)
        said = {"key": self.key, "adapter": str(self.adapter), "seconds": self.seconds}
        storage.create({**said, **about(self.model, tower, reason)}, tower)


@dataclass
class Found:
    """An index that is up to date, to be asked.

    Attributes:
        search: whose it is.
        index: the index.
        stamps: of the videos that are there, by their path.
    """

    search: VideoSearch
    index: Index
    stamps: dict[str, Stamp]

    @property
    def windows(self) -> int:
        """Number of windows that are searched."""
        return sum(len(file.spans) for file in self.index.files.values() if self._is_there(file))

    @property
    def skipped(self) -> list[Indexed]:
        """Files that could not be read, or not to their end."""
        return [file for file in self.index.failures if self._is_there(file)]

    @cached_property
    def _tower(self) -> TextTower | None:
        return self.index.text_tower()

    def _is_there(self, file: Indexed) -> bool:
        return self.stamps.get(file.path) == file.stamp

    def of_text(self, text: str, top_k: int, two_stages: bool = True) -> list[Hit]:
        """The windows that a text describes best.

        Args:
            text: the query; beyond the words that the model reads it is cut, with a warning where the index has a text
                tower.
            top_k: the most windows.
            two_stages: whether a model that matches texts with clips ranks the first ones again.

        Raises:
            NonFiniteError: a likeness is NaN or infinite.
            PetlBenchError: the model must be loaded and cannot be.
        """
        again = self.index.about["two_stage"] if two_stages else None
        hits = self._ranked(self._query(text), max(top_k, again["k"] if again else 0))
        if again:
            from petl_bench.search.second_stage import matched

            hits = matched(self.search.model, text, hits, again, self.search.videos, self.search.seconds)
        return hits[:top_k]

    def of_clip(self, path: Path, top_k: int) -> list[Hit]:
        """The windows that are most like a clip or a still.

        Raises:
            VideoError: it cannot be read.
            UsageError: the model has no vector of a whole clip.
        """
        if self.index.about["pooling"]["pooling"] != "mean":
            raise UsageError("this model compares captions with frames, it has no vector of a whole clip: give a text")
        from petl_bench.search.build import query_of_clip

        return self._ranked(query_of_clip(self.search.model, path), top_k)

    def _ranked(self, query: Tensor, top_k: int) -> list[Hit]:
        return self.index.ranked(query, self.stamps, top_k)

    def _query(self, text: str) -> Tensor:
        pooling, tower = self.index.about["pooling"], self._tower
        if tower is None:
            from petl_bench.search.build import query_of_text

            return query_of_text(self.search.model, text, pooling)
        if cut := tower.cut(text):
            warnings.warn(f"the query has {cut}", stacklevel=2)
        try:
            pooled, projected = tower.encode(text)
        except NoTextTower as error:
            raise damaged(f"the text tower in {self.search.storage}", str(error)) from error
        return projected if pooling["pooling"] == "text_conditioned" else pooled


def _stamps(videos: Path) -> dict[str, Stamp]:
    """The videos below a folder, by their path there.

    Raises:
        DataError: there is no such folder, or no video in it.
    """
    if not videos.is_dir():
        raise DataError(f"no folder of videos at {videos}")
    found = {}
    for path in ClipFiles(videos, VIDEO_SUFFIXES, lambda path: path.stem).paths:
        with suppress(OSError):  # gone since it was listed, or in a folder that is closed
            status = path.stat()
            found[path.relative_to(videos).as_posix()] = Stamp(status.st_size, status.st_mtime_ns)
    if not found:
        raise DataError(f"{videos}: no video below this folder; videos end in {', '.join(VIDEO_SUFFIXES[:4])}, ...")
    return found


def _wanted(index: Index, stamps: dict[str, Stamp], retry: bool) -> list[tuple[str, Stamp]]:
    """Files that are new, or have changed since they were read; and those that could not be read, to be tried again."""
    known = {path: file.stamp for path, file in index.files.items() if not (retry and file.reason)}
    return [(path, stamp) for path, stamp in stamps.items() if known.get(path) != stamp]


def _tell_failures(index: Index, wanted: Sequence[tuple[str, Stamp]]) -> None:
    """Names the files that could not be read this time."""
    read = {path for path, _ in wanted}
    for file in index.failures:
        if file.path in read:
            where = f" from second {file.spans[-1][1]:g}" if file.spans else ""
            print(f"skipped{where}: {inert(file.path)}: {inert(file.reason)}", file=sys.stderr)


def inert(text: str) -> str:
    """A file's name without what would move the cursor of a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def as_json(query: str, found: Found, hits: Sequence[Hit]) -> dict[str, Any]:
    """What a query found, as plain values."""
    return {
        "query": query,
        "windows": found.windows,
        "hits": [
            {
                "rank": hit.rank,
                "score": hit.score,
                "video": hit.place.file.path,
                "start": hit.place.span[0],
                "end": hit.place.span[1],
            }
            for hit in hits
        ],
        "skipped": [{"video": file.path, "reason": file.reason} for file in found.skipped],
    }
