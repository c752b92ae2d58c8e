"""The index of a folder of videos: features of their windows, in safetensors that are written once and whole.

A folder with `index.json` (what the features are of), `text.safetensors` (the text tower, where it runs by itself) and
`shard-N.safetensors`: features, and which files they are of. A shard is never changed. Where a file is in several,
the newest counts; where it has another size or time now, or is gone, none does. What a killed process leaves is a shard
less, which the next one makes again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.machine.resources import exhausted_by_parser
from petl_bench.search.text_tower import NoTextTower, TextTower, checked
from petl_bench.storage.file_names import utf8_path
from petl_bench.storage.files import write_atomically, write_bytes_atomically
from petl_bench.storage.locks import HeldError, file_lock
from petl_bench.storage.untrusted import UnreadableError, parse_json, read_text

FORMAT = "petl_bench.index/1"
ABOUT_NAME, TEXT_NAME, _LOCK_NAME = "index.json", "text.safetensors", ".lock"
_SHARD = re.compile(r"shard-(\d{6})\.safetensors")
_ENTRY = "petl_bench"
#: windows of a shard that is not merged with others any more, and how many smaller ones there may be
_FULL, _MOST_SMALL = 65_536, 8


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


class Rows(NamedTuple):
    """Features of windows: (n, E), or of their frames (n, T, E) with a mask (n, T)."""

    features: Tensor
    mask: Tensor | None = None

    def select(self, rows: slice | Tensor) -> Rows:
        """Some of the windows."""
        return Rows(self.features[rows], None if self.mask is None else self.mask[rows])


@dataclass(frozen=True)
class _Shard:
    """One file of features, and the files that they are of, in the order of its rows."""

    path: Path
    files: tuple[Indexed, ...]

    @property
    def rows(self) -> int:
        return sum(len(file.spans) for file in self.files)

    def read(self) -> Rows:
        """All of its features.

        Raises:
            CheckpointError: the shard is damaged.
        """
        tensors = _tensors(self.path)[1]
        found = Rows(tensors.get("features", torch.empty(0)), tensors.get("mask"))
        if len(found.features) != self.rows or (found.mask is not None and len(found.mask) != self.rows):
            raise damaged(self.path, f"{len(found.features)} rows for {self.rows} windows")
        return found


class Index:
    """An index that is there.

    Args:
        folder: of the index.

    Attributes:
        about: what `index.json` says.
        files: what it has of each file, by path; the newest.

    Raises:
        CheckpointError: there is none, or what there is is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.about = folder, _about(folder)
        self._shards = [_Shard(path, _files(path)) for path in _shard_paths(folder)]
        self.files = {file.path: file for shard in self._shards for file in shard.files}

    def __len__(self) -> int:
        return sum(len(file.spans) for file in self.files.values())

    @property
    def failures(self) -> list[Indexed]:
        """Files that could not be read, or not to their end."""
        return [file for file in self.files.values() if file.reason]

    def text_tower(self) -> TextTower | None:
        """Its text tower; None where only the whole model can read texts.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.folder / TEXT_NAME
        if not path.is_file():
            return None
        metadata, tensors = _tensors(path)
        try:
            return checked(metadata, tensors)
        except NoTextTower as error:
            raise damaged(path, str(error)) from error

    def live(self, stamps: Mapping[str, Stamp]) -> Iterator[tuple[list[tuple[Indexed, int]], Rows]]:
        """Features of the files that are still what they were, shard after shard: which window each row is, and rows.

        Args:
            stamps: of the files that are there.

        Raises:
            CheckpointError: a shard is damaged.
        """
        for shard in self._shards:
            windows, rows, row = [], [], 0
            for file in shard.files:
                if self.files[file.path] is file and stamps.get(file.path) == file.stamp:
                    windows += [(file, place) for place in range(len(file.spans))]
                    rows += range(row, row + len(file.spans))
                row += len(file.spans)
            if windows:
                yield windows, shard.read().select(torch.tensor(rows))


def create(folder: Path, about: Mapping[str, Any], tower: TextTower | None) -> None:
    """Begins an index.

    Raises:
        FileError: it cannot be written.
    """
    from safetensors.torch import save

    if tower is not None:
        content = save(dict(tower.tensors), {_ENTRY: json.dumps(tower.program)})
        write_bytes_atomically(folder / TEXT_NAME, content)
    # Last, since this is what makes a folder an index.
    write_atomically(folder / ABOUT_NAME, json.dumps({"format": FORMAT, **about}, indent=1) + "\n")


@contextmanager
def being_written(folder: Path) -> Iterator[None]:
    """Keeps other processes from adding to an index.

    Raises:
        UsageError: another process adds to it.
        CheckpointError: the folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(folder / _LOCK_NAME))
        except HeldError as error:
            raise UsageError(f"{folder}: another process is adding to this index; wait until it is done") from error
        except OSError as error:
            told = f"{folder}: the index cannot be written ({error.strerror}): say where with --index DIR"
            raise CheckpointError(told) from error
        yield


def add(folder: Path, files: Sequence[Indexed], rows: Sequence[Rows]) -> None:
    """Adds a shard.

    Args:
        folder: of the index.
        files: that were read.
        rows: of their windows, in order.

    Raises:
        FileError: it cannot be written.
    """
    from safetensors.torch import save

    tensors = {}
    if rows:
        tensors["features"] = torch.cat([part.features for part in rows]).contiguous()
        masks = [part.mask for part in rows if part.mask is not None]
        tensors |= {"mask": torch.cat(masks).contiguous()} if masks else {}
    told = json.dumps({"format": FORMAT, "files": files})
    paths = _shard_paths(folder)
    number = int(_SHARD.fullmatch(paths[-1].name)[1]) + 1 if paths else 1  # type: ignore[index]  # all of them match
    write_bytes_atomically(folder / f"shard-{number:06d}.safetensors", save(tensors, {_ENTRY: told}))


def tidy(index: Index, stamps: Mapping[str, Stamp]) -> None:
    """Merges the small shards into one where they are many, without what no longer counts.

    Raises:
        CheckpointError: one of them is damaged.
        FileError: the disk is full.
    """
    small = [shard for shard in index._shards if shard.rows < _FULL]
    if len(small) <= _MOST_SMALL:
        return
    files, rows = [], []
    for shard in small:
        row, read = 0, shard.read()
        for file in shard.files:
            if index.files[file.path] is file and stamps.get(file.path) == file.stamp:
                files.append(file)
                rows.append(read.select(slice(row, row + len(file.spans))))
            row += len(file.spans)
    add(index.folder, files, rows)
    for shard in small:
        with suppress(OSError):  # what is there twice counts once
            shard.path.unlink()


# --- what is read -----------------------------------------------------------------------------------------------------


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT_NAME
    try:
        about = parse_json(read_text(path))
    except UnreadableError as error:
        raise damaged(path, str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no index of this version ({FORMAT}): give another --index, or delete it")
    if not _says_enough(about):
        raise damaged(path, "it does not say how windows are compared")
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


def _shard_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def _files(path: Path) -> tuple[Indexed, ...]:
    told = _tensors(path, only_metadata=True)[0]
    try:
        return tuple(
            Indexed(str(name), Stamp(*stamp), tuple((float(start), float(end)) for start, end in spans), str(reason))
            for name, stamp, spans, reason in told["files"]
        )
    except (TypeError, ValueError, KeyError) as error:
        raise damaged(path, f"its list of files is none ({error})") from error


def _tensors(path: Path, only_metadata: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of the index says of itself, and its tensors."""
    from safetensors import safe_open

    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            told = parse_json((file.metadata() or {}).get(_ENTRY, "{}"))
            names = [] if only_metadata else list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # of a damaged header the library makes almost anything
        if lacking := exhausted_by_parser(error, path):
            raise lacking from error
        raise damaged(path, " ".join(str(error).split())[:150]) from error
    if not isinstance(told, dict):
        raise damaged(path, "what it says of itself is no mapping")
    return told, tensors


def damaged(path: Path, reason: str) -> CheckpointError:
    """The error of a file of an index."""
    return CheckpointError(f"{path} is damaged ({reason}): delete it, and what it held is read again")
