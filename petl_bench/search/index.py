"""What an index of videos is: features of windows, and which files they are of; wherever it is kept.

`petl_bench.search.shards` keeps it as safetensors in a folder, `petl_bench.search.lance` in a database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petl_bench.errors import CheckpointError
from petl_bench.search.text_tower import TextTower
from petl_bench.storage.untrusted import UnreadableError, parse_json

FORMAT = "petl_bench.index/2"


class Stamp(NamedTuple):
    """How a file is known again: size in bytes, time of its last change in nanoseconds."""

    size: int
    modified: int


class Indexed(NamedTuple):
    """A file of an index.

    Attributes:
        path: below the folder of videos.
        stamp: of the file when it was read.
        spans: its windows, (start, end) in seconds.
        reason: why it could not be read, or not beyond its last window; empty if it could.
    """

    path: str
    stamp: Stamp
    spans: tuple[tuple[float, float], ...]
    reason: str = ""


def indexed(told: Any) -> Indexed:
    """An entry as JSON holds it.

    Raises:
        TypeError: it is none; likewise `ValueError` and `OverflowError`.
    """
    path, stamp, spans, reason = told
    return Indexed(str(path), Stamp(*stamp), tuple((float(start), float(end)) for start, end in spans), str(reason))


class Rows(NamedTuple):
    """Features of windows: (n, E), or of their frames (n, T, E) with a mask (n, T)."""

    features: Tensor
    mask: Tensor | None = None

    def select(self, rows: slice | Tensor) -> Rows:
        """Some of the windows."""
        return Rows(self.features[rows], None if self.mask is None else self.mask[rows])


class Place(NamedTuple):
    """A window: the file, and its number in it."""

    file: Indexed
    number: int

    @property
    def span(self) -> tuple[float, float]:
        """First and last second."""
        return self.file.spans[self.number]


class Hit(NamedTuple):
    """A window that was found.

    Attributes:
        rank: 1 + windows that are more alike + half of those that are just as alike, rounded up: the expected rank
            where ties are broken at random, to the worse side, as in `petl_bench.metrics.retrieval`.
        score: the likeness.
        place: the window.
    """

    rank: int
    score: float
    place: Place


class Index(ABC):
    """An index that is there.

    Attributes:
        about: what it says of its features.
        files: what it has of each file, by path.
    """

    about: dict[str, Any]
    files: dict[str, Indexed]

    def __len__(self) -> int:
        return sum(len(file.spans) for file in self.files.values())

    @property
    def failures(self) -> list[Indexed]:
        """Files that could not be read, or not to their end."""
        return [file for file in self.files.values() if file.reason]

    @abstractmethod
    def text_tower(self) -> TextTower | None:
        """Its text tower; None where only the whole model can read texts.

        Raises:
            CheckpointError: it is damaged.
        """

    @abstractmethod
    def live(self, stamps: Mapping[str, Stamp]) -> Iterator[tuple[list[Place], Rows]]:
        """Features of the files that are still what they were, part after part: which window each row is, and rows.

        Args:
            stamps: of the files that are there.

        Raises:
            CheckpointError: the index is damaged.
        """

    def windows(self, stamps: Mapping[str, Stamp]) -> tuple[list[Place], Rows]:
        """The same in one piece, ordered by file and time.

        Raises:
            CheckpointError: the index is damaged.
        """
        parts = list(self.live(stamps))
        places = [place for own, _ in parts for place in own]
        order = sorted(range(len(places)), key=lambda row: (places[row].file.path, places[row].number))
        masks = [rows.mask for _, rows in parts if rows.mask is not None]
        rows = Rows(torch.cat([rows.features for _, rows in parts]), torch.cat(masks) if masks else None)
        return [places[row] for row in order], rows.select(torch.tensor(order))

    @abstractmethod
    def ranked(self, query: Tensor, stamps: Mapping[str, Stamp], top_k: int) -> list[Hit]:
        """The windows that are most like a query, of the files that are still what they were; best first.

        Args:
            query: features (E,), before normalisation where captions weigh frames.
            stamps: of the files that are there.
            top_k: the most windows.

        Raises:
            CheckpointError: the index is damaged, or the query has features of another width.
            NonFiniteError: a likeness is NaN or infinite.
        """


class Storage(ABC):
    """Where an index is, or will be; as a text it names the place."""

    @abstractmethod
    def holds_one(self) -> bool:
        """Whether there is an index."""

    @abstractmethod
    def open(self) -> Index:
        """The index.

        Raises:
            CheckpointError: there is none, or what there is is damaged.
        """

    @abstractmethod
    def create(self, about: Mapping[str, Any], tower: TextTower | None) -> None:
        """Begins an index.

        Raises:
            PetlBenchError: it cannot be written.
        """

    @abstractmethod
    def being_written(self) -> AbstractContextManager[None]:
        """Keeps other processes from adding to the index, where there are locks.

        Raises:
            UsageError: another process adds to it.
            CheckpointError: it cannot be written to.
        """

    @abstractmethod
    def add(self, files: Sequence[Indexed], rows: Sequence[Rows]) -> None:
        """Adds files, in the place of what is there of them.

        Args:
            files: that were read.
            rows: of their windows, in order.

        Raises:
            PetlBenchError: it cannot be written.
        """

    @abstractmethod
    def tidy(self, stamps: Mapping[str, Stamp]) -> None:
        """Makes a search faster after something was added, and lets go of what no longer counts.

        Args:
            stamps: of the files that are there.

        Raises:
            PetlBenchError: it cannot be written, or is damaged.
        """


def as_told(text: str, where: str) -> dict[str, Any]:
    """What an index says of its features.

    Raises:
        CheckpointError: it says too little, or it is of another version.
    """
    try:
        about = parse_json(text)
    except UnreadableError as error:
        raise damaged(where, str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{where} is no index of this version ({FORMAT}): give another --index, or delete it")
    if not _says_enough(about):
        raise damaged(where, "it does not say how windows are compared")
    return about


def _says_enough(about: dict[str, Any]) -> bool:
    pooling, two_stage = about.get("pooling"), about.get("two_stage")
    if not isinstance(pooling, dict):
        return False
    compared = pooling == {"pooling": "mean"} or (
        pooling.get("pooling") == "text_conditioned" and _is_positive(pooling.get("temperature"))
    )
    again = two_stage is None or (
        isinstance(two_stage, dict)
        and isinstance(two_stage.get("k"), int)
        and _is_positive(two_stage["k"])
        and isinstance(two_stage.get("beta"), int | float)
    )
    return compared and again


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def damaged(where: object, reason: str) -> CheckpointError:
    """The error of a file of an index."""
    return CheckpointError(f"{where} is damaged ({reason}): delete it, and what it held is read again")
