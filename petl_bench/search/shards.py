"""The index of a folder of videos as safetensors, each of which is written once and whole.

A folder with `index.json` (what the features are of), `text.safetensors` (the text tower, where it runs by itself) and
`shard-N.safetensors`: features, and which files they are of. A shard is never changed. Where a file is in several,
the newest counts; where it has another size or time now, or is gone, none does. What a killed process leaves is a shard
less, which the next one makes again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.machine.resources import exhausted_by_parser
from petl_bench.search.index import FORMAT, Hit, Index, Indexed, Place, Rows, Stamp, Storage, as_told, damaged, indexed
from petl_bench.search.ranking import ranked
from petl_bench.search.text_tower import NoTextTower, TextTower, checked
from petl_bench.storage.file_names import utf8_path
from petl_bench.storage.files import write_atomically, write_bytes_atomically
from petl_bench.storage.locks import HeldError, file_lock
from petl_bench.storage.untrusted import UnreadableError, is_file, parse_json, read_text

ABOUT_NAME, TEXT_NAME, _LOCK_NAME = "index.json", "text.safetensors", ".lock"
_SHARD = re.compile(r"shard-\d{6}\.safetensors")
_ENTRY = "petl_bench"
#: windows of a shard that is not merged with others any more, and how many smaller ones there may be
_FULL, _MOST_SMALL = 65_536, 8
#: how often shards are listed anew that are gone when they are read
_TRIES = 3


@dataclass(frozen=True)
class Shard:
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
        features, mask = tensors.get("features", torch.empty(0, 0)), tensors.get("mask")
        shaped = features.ndim == 2 if mask is None else features.shape[:2] == mask.shape and mask.dtype == torch.bool
        if not shaped or not features.is_floating_point() or len(features) != self.rows:
            raise damaged(self.path, f"its features {tuple(features.shape)} are not those of {self.rows} windows")
        return Rows(features, mask)


class Shards(Index):
    """An index in a folder.

    Args:
        folder: of the index.

    Raises:
        CheckpointError: there is none, or what there is is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / ABOUT_NAME
        try:
            self.about = as_told(read_text(path), str(path))
        except UnreadableError as error:
            raise damaged(path, str(error)) from error
        self.shards = _again_if_merged(lambda: [Shard(path, _files(path)) for path in _shard_paths(folder)])
        self.files = {file.path: file for shard in self.shards for file in shard.files}

    def text_tower(self) -> TextTower | None:
        path = self.folder / TEXT_NAME
        if not path.is_file():
            return None
        metadata, tensors = _tensors(path)
        try:
            return checked(metadata, tensors)
        except NoTextTower as error:
            raise damaged(path, str(error)) from error

    def ranked(self, query: Tensor, stamps: Mapping[str, Stamp], top_k: int) -> list[Hit]:
        pooling = self.about["pooling"]
        try:
            return ranked(query, self.live(stamps), pooling, top_k)
        except FileNotFoundError:  # another process has merged them
            return _again_if_merged(lambda: ranked(query, Shards(self.folder).live(stamps), pooling, top_k))

    def windows(self, stamps: Mapping[str, Stamp]) -> tuple[list[Place], Rows]:
        try:
            return super().windows(stamps)
        except FileNotFoundError:
            return _again_if_merged(lambda: Index.windows(Shards(self.folder), stamps))

    def live(self, stamps: Mapping[str, Stamp]) -> Iterator[tuple[list[Place], Rows]]:
        for shard in self.shards:
            windows, rows, row = [], [], 0
            for file in shard.files:
                if self.files[file.path] is file and stamps.get(file.path) == file.stamp:
                    windows += [Place(file, number) for number in range(len(file.spans))]
                    rows += range(row, row + len(file.spans))
                row += len(file.spans)
            if windows:
                read = shard.read()
                yield windows, read if len(rows) == shard.rows else read.select(torch.tensor(rows))


@dataclass(frozen=True)
class Folder(Storage):
    """Safetensors in a folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def holds_one(self) -> bool:
        return is_file(self.path / ABOUT_NAME)

    def open(self) -> Shards:
        return Shards(self.path)

    def create(self, about: Mapping[str, Any], tower: TextTower | None) -> None:
        for path in (*_shard_paths(self.path), self.path / TEXT_NAME):  # of an index that was deleted in part
            path.unlink(missing_ok=True)
        if tower is not None:
            write_bytes_atomically(self.path / TEXT_NAME, as_bytes(tower))
        # Last, since this is what makes a folder an index.
        write_atomically(self.path / ABOUT_NAME, json.dumps({"format": FORMAT, **about}, indent=1) + "\n")

    @contextmanager
    def being_written(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(self.path / _LOCK_NAME))
            except HeldError as error:
                raise UsageError(f"{self}: another process is adding to this index; wait until it is done") from error
            except OSError as error:
                told = f"{self}: the index cannot be written ({error.strerror}): say where with --index DIR"
                raise CheckpointError(told) from error
            for path in self.path.glob(".*.tmp"):  # what a killed process left
                path.unlink(missing_ok=True)
            yield

    def add(self, files: Sequence[Indexed], rows: Sequence[Rows]) -> None:
        from safetensors.torch import save

        tensors = {}
        if rows:
            tensors["features"] = torch.cat([part.features for part in rows]).contiguous()
            masks = [part.mask for part in rows if part.mask is not None]
            tensors |= {"mask": torch.cat(masks).contiguous()} if masks else {}
        told = json.dumps({"format": FORMAT, "files": files})
        paths = _shard_paths(self.path)
        number = int(paths[-1].stem.rpartition("-")[2]) + 1 if paths else 1
        write_bytes_atomically(self.path / f"shard-{number:06d}.safetensors", save(tensors, {_ENTRY: told}))

    def tidy(self, stamps: Mapping[str, Stamp]) -> None:
        """Merges the small shards where they are many, without what no longer counts."""
        index = self.open()
        small = [shard for shard in index.shards if shard.rows < _FULL]
        if len(small) <= _MOST_SMALL:
            return
        files, rows = list[Indexed](), list[Rows]()
        for shard in small:
            row, read = 0, shard.read()
            for file in shard.files:
                if index.files[file.path] is file and stamps.get(file.path) == file.stamp:
                    files.append(file)
                    rows.append(read.select(slice(row, row + len(file.spans))))
                row += len(file.spans)
            if sum(len(part.features) for part in rows) >= _FULL:
                self.add(files, rows)
                files, rows = [], []
        if files:
            self.add(files, rows)
        for shard in small:
            with suppress(OSError):  # what is there twice counts once
                shard.path.unlink()


def as_bytes(tower: TextTower) -> bytes:
    """A text tower as a file."""
    from safetensors.torch import save

    return save(dict(tower.tensors), {_ENTRY: json.dumps(tower.program)})


def from_bytes(content: bytes) -> TextTower:
    """What `as_bytes` made of a text tower.

    Raises:
        NoTextTower: it is no such thing.
    """
    with TemporaryDirectory(prefix="petl_bench_") as folder:
        path = Path(folder) / TEXT_NAME
        path.write_bytes(content)
        try:
            return checked(*_tensors(path))
        except CheckpointError as error:
            raise NoTextTower(str(error).removeprefix(f"{path} ")) from error


# --- what is read -----------------------------------------------------------------------------------------------------


_Read = TypeVar("_Read")


def _again_if_merged(read: Callable[[], _Read]) -> _Read:
    """Reads shards; once more if one was gone meanwhile, since another process may merge them."""
    for _ in range(_TRIES):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _shard_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def _files(path: Path) -> tuple[Indexed, ...]:
    told = _tensors(path, only_metadata=True)[0]
    if told.get("format") != FORMAT:
        raise damaged(path, f"it is no part of an index of this version ({FORMAT})")
    try:
        return tuple(map(indexed, told["files"]))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise damaged(path, f"its list of files is none ({error})") from error


def _tensors(path: Path, only_metadata: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of the index says of itself, and its tensors.

    Raises:
        FileNotFoundError: it is gone.
        CheckpointError: it is damaged.
    """
    from safetensors import safe_open

    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            told = parse_json((file.metadata() or {}).get(_ENTRY, "{}"))
            names = [] if only_metadata else list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # of a damaged header the library makes almost anything
        if not path.exists():
            raise FileNotFoundError(path) from error
        if lacking := exhausted_by_parser(error, path):
            raise lacking from error
        raise damaged(path, " ".join(str(error).split())[:150]) from error
    if not isinstance(told, dict):
        raise damaged(path, "what it says of itself is no mapping")
    return told, tensors
