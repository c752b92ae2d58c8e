"""The index of a folder of videos in LanceDB, for more windows than memory holds: a folder, or an object store.

Tables `windows` (features), `files` (which files they are of) and `about` (what the features are of, and the text
tower). Every window is compared, as in a folder of safetensors, and the first ones once more in fp64, so that the same
features give the same answers.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.search.index import FORMAT, Hit, Index, Indexed, Place, Rows, Stamp, Storage, as_told, damaged, indexed
from petl_bench.search.ranking import best, likeness
from petl_bench.search.shards import Folder, as_bytes, from_bytes
from petl_bench.search.text_tower import NoTextTower, TextTower
from petl_bench.storage.untrusted import expanded

#: windows that are fetched beyond those that are asked for, for what the database rounds otherwise; and how far it may
_BEYOND, _ROUNDED = 64, 1e-5
#: files that one statement names
_AT_ONCE = 1000
_ABOUT, _TOWER = "about", "text tower"
#: of the table of windows
_COLUMNS = ["file", "batch", "number", "vector"]


@dataclass(frozen=True)
class Database(Storage):
    """A LanceDB database.

    Attributes:
        address: a folder, or what LanceDB takes for one (`s3://bucket/name`).
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def connection(self) -> Any:
        """The open database.

        Raises:
            UsageError: lancedb is not installed.
            CheckpointError: it cannot be reached.
        """
        try:
            import lancedb
        except ImportError as error:
            told = f"--index {self.address} is a LanceDB database: pip install 'petl-bench[lance]', or give a folder"
            raise UsageError(told) from error
        with self.told():
            return lancedb.connect(self.address)

    def tables(self) -> dict[str, Any]:
        """Its tables by name."""
        connection = self.connection()
        with self.told():
            return {name: connection.open_table(name) for name in connection.list_tables().tables}

    def holds_one(self) -> bool:
        return _ABOUT in self.tables()

    def open(self) -> InDatabase:
        return InDatabase(self, self.tables())

    def create(self, about: Mapping[str, Any], tower: TextTower | None) -> None:
        if about["pooling"]["pooling"] != "mean":
            raise UsageError(f"{self}: this adapter compares captions with frames, which only a folder keeps")
        told = json.dumps({"format": FORMAT, **about}).encode()
        rows = [{"key": _ABOUT, "value": told}]
        if tower is not None:
            rows.append({"key": _TOWER, "value": as_bytes(tower)})
        connection = self.connection()
        with self.told():
            connection.create_table(_ABOUT, rows)

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """Locks where the database is a folder; an object store has no locks: let one process at a time add to it."""
        if "://" in self.address:
            yield
            return
        with Folder(expanded(self.address)).being_written():
            yield

    def add(self, files: Sequence[Indexed], rows: Sequence[Rows]) -> None:
        tables, ids = self.tables(), [_id(file.path) for file in files]
        features, batch = torch.cat([part.features for part in rows]).numpy() if rows else [], secrets.token_hex(8)
        numbered = [(id, number) for id, file in zip(ids, files, strict=True) for number in range(len(file.spans))]
        windows = [
            {"file": id, "batch": batch, "number": number, "vector": vector}
            for (id, number), vector in zip(numbered, features, strict=True)
        ]
        told = [{"file": id, "batch": batch, "told": json.dumps(file)} for id, file in zip(ids, files, strict=True)]
        # First the windows: they count when their file names their batch, and others of the file no longer do.
        with self.told():
            for name, added in (("windows", windows), ("files", told)):
                if name not in tables and added:
                    self.connection().create_table(name, added)
                elif name == "windows" and added:
                    tables[name].add(added)
                elif added:
                    tables[name].merge_insert("file").when_matched_update_all().when_not_matched_insert_all().execute(
                        added
                    )

    def tidy(self, stamps: Mapping[str, Stamp]) -> None:
        """Lets go of files that are gone, and of windows that no file names."""
        tables, index = self.tables(), self.open()
        gone = [_id(path) for path in index.files if path not in stamps]
        kept = {index.batches[_id(path)] for path in index.files if path in stamps}
        with self.told():
            for first in range(0, len(gone), _AT_ONCE):
                tables["files"].delete(f"file IN ({_listed(gone[first : first + _AT_ONCE])})")
            if "windows" in tables:
                tables["windows"].delete(f"batch NOT IN ({_listed(sorted(kept) or [''])})")
            for name in tables.keys() & {"windows", "files"}:
                tables[name].optimize()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever LanceDB and its stores raise, in one line."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, ImportError) as error:
            told = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self}: LanceDB cannot use this index: {told}") from error


class InDatabase(Index):
    """An index in a database.

    Args:
        database: which.
        tables: of it, by name.

    Raises:
        CheckpointError: there is none, or what there is is damaged.
    """

    def __init__(self, database: Database, tables: Mapping[str, Any]) -> None:
        self._database, self._tables = database, tables
        self._values = {row["key"]: row["value"] for row in self._rows(_ABOUT, "key", "value")}
        if _ABOUT not in self._values:
            raise damaged(database, "it does not say what it is")
        self.about = as_told(bytes(self._values[_ABOUT]).decode(errors="replace"), str(database))
        found = [(_told_file(row["told"], database), row["batch"]) for row in self._rows("files", "told", "batch")]
        self.files = {file.path: file for file, _ in found}
        self._by_id = {_id(file.path): file for file, _ in found}
        self.batches = {_id(file.path): batch for file, batch in found}

    def _rows(self, name: str, *columns: str) -> list[dict[str, Any]]:
        with self._database.told():
            return self._tables[name].to_arrow().select(columns).to_pylist() if name in self._tables else []

    def text_tower(self) -> TextTower | None:
        if _TOWER not in self._values:
            return None
        try:
            return from_bytes(bytes(self._values[_TOWER]))
        except NoTextTower as error:
            raise damaged(f"the text tower in {self._database}", str(error)) from error

    def ranked(self, query: Tensor, stamps: Mapping[str, Stamp], top_k: int) -> list[Hit]:
        if "windows" not in self._tables:
            return []
        table = self._tables["windows"]
        with self._database.told():
            count = table.count_rows()
        wanted = top_k + _BEYOND
        while True:
            places, scores = self._nearest(table, query, stamps, wanted)
            hits = best(scores, places, top_k)
            # Whatever was not fetched is, for the database, no more alike than the last of these.
            if wanted >= count or (len(hits) == top_k and float(scores.min()) + _ROUNDED < hits[-1].score):
                return hits
            wanted *= 4

    def _nearest(
        self, table: Any, query: Tensor, stamps: Mapping[str, Stamp], count: int
    ) -> tuple[list[Place], Tensor]:
        with self._database.told():
            search = table.search(query.numpy()).distance_type("dot").bypass_vector_index().limit(count)
            found = search.select([*_COLUMNS, "_distance"]).to_arrow()
        places, rows = self._read(found, stamps)
        return places, likeness(query, rows, self.about["pooling"])

    def live(self, stamps: Mapping[str, Stamp]) -> Iterator[tuple[list[Place], Rows]]:
        if "windows" not in self._tables:
            return
        with self._database.told():
            found = self._tables["windows"].to_arrow().select(_COLUMNS)
        yield self._read(found, stamps)

    def _read(self, found: Any, stamps: Mapping[str, Stamp]) -> tuple[list[Place], Rows]:
        """The windows of a table of arrow's that still count, and their features."""
        ids, batches, numbers = (found[name].to_pylist() for name in ("file", "batch", "number"))
        width = found.schema.field("vector").type.list_size
        flat = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        features = torch.from_numpy(flat.copy()).view(-1, width)
        files = [self._by_id.get(id) for id in ids]
        kept = [
            row
            for row, (file, number) in enumerate(zip(files, numbers, strict=True))
            if file is not None
            and self.batches[ids[row]] == batches[row]
            and stamps.get(file.path) == file.stamp
            and 0 <= number < len(file.spans)
        ]
        places = [Place(file, numbers[row]) for row in kept if (file := files[row]) is not None]
        return places, Rows(features[kept])


def _id(path: str) -> str:
    """A file's path as something that every query language takes."""
    return hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:32]


def _listed(texts: Sequence[str]) -> str:
    """Of hexadecimal digits, as a list of SQL."""
    return ", ".join(f"'{text}'" for text in texts)


def _told_file(text: str, database: Database) -> Indexed:
    try:
        return indexed(json.loads(text))
    except (TypeError, ValueError, OverflowError) as error:
        raise damaged(database, f"its list of files is none ({error})") from error
