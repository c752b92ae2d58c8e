"""Features of a folder of videos as a table: which file, which seconds, which vector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from petl_bench.errors import UsageError
from petl_bench.search.index import Place, Rows
from petl_bench.search.session import Found
from petl_bench.storage.files import writing


def require_format(format: str) -> None:
    """Refuses a format whose package is missing, before anything is computed.

    Raises:
        UsageError: it is.
    """
    if format == "parquet" and find_spec("pyarrow") is None:
        raise UsageError("--format parquet takes pyarrow: pip install 'petl-bench[parquet]', or give --format npz")


@dataclass(frozen=True)
class Embeddings:
    """Features of N windows, ordered by file and time.

    Attributes:
        places: the windows.
        rows: their features: (N, E), or of frames (N, T, E) where captions weigh them.
        about: what made them: adapter, method, backbone, frames, how they are compared.
    """

    places: Sequence[Place]
    rows: Rows
    about: dict[str, Any]

    @classmethod
    def of(cls, found: Found) -> Embeddings:
        """Those of an index, of the files that are there.

        Raises:
            CheckpointError: the index is damaged.
        """
        places, rows = found.index.windows(found.stamps)
        about = {name: value for name, value in found.index.about.items() if name != "texts_need_model"}
        return cls(places, rows, about)

    def write(self, path: Path, format: str) -> None:
        """Writes the table.

        `npz`: arrays `video` (N,) text, `start` and `end` (N,) in seconds, `features` (N, E) or (N, T, E) fp32, where
        they are of frames `mask` (N, T), and `about`, a text in JSON. `parquet`: the same columns, each vector a list;
        `about` is in the metadata of the schema.

        Args:
            path: of the file, which is replaced if there is one.
            format: `npz` or `parquet`.

        Raises:
            FileError: it cannot be written.
            UsageError: pyarrow is not installed.
        """
        require_format(format)
        write = {"npz": self._write_npz, "parquet": self._write_parquet}[format]
        write(path)

    def _columns(self) -> dict[str, np.ndarray]:
        spans = np.array([place.span for place in self.places], dtype=np.float64).reshape(-1, 2)
        columns = {
            "video": np.array([_utf8(place.file.path) for place in self.places], dtype=np.str_),
            "start": spans[:, 0],
            "end": spans[:, 1],
            "features": self.rows.features.numpy(),
        }
        return columns if self.rows.mask is None else columns | {"mask": self.rows.mask.numpy()}

    def _write_npz(self, path: Path) -> None:
        with writing(path) as file:
            columns: dict[str, Any] = {"about": np.array(json.dumps(self.about)), **self._columns()}
            np.savez(file, **columns)

    def _write_parquet(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        columns = {name: _as_lists(pa, column) for name, column in self._columns().items()}
        with writing(path) as file:
            parquet.write_table(pa.table(columns, metadata={"about": json.dumps(self.about)}), file)


def _utf8(path: str) -> str:
    """A file's name as other programs can read it; bytes that are no text are spelt out."""
    return path.encode(errors="backslashreplace").decode()


def _as_lists(pa: Any, column: np.ndarray) -> Any:
    """An array of pyarrow, whose entries are lists where the column has more than one dimension."""
    values = pa.array(column.reshape(-1))
    for size in reversed(column.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values
