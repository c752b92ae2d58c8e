"""Arrays of numbers and text in `.npz` files that may come from anybody: nothing is run, nothing fills the memory."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from petl_bench.errors import ResourceError
from petl_bench.storage.files import FileError
from petl_bench.storage.untrusted import UnreadableError, read_bytes, shown

#: bytes of all arrays of a file, and of the file: larger than the ranks of any benchmark, and read in seconds
MOST_BYTES = 2**30
#: arrays of a file
_MOST_ARRAYS = 64
#: of numpy's kinds of values: truth, numbers, text
_KINDS = "biufU"
_LAST_CODE_POINT = 0x10FFFF


def read_arrays(path: Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file that `numpy.savez` or `numpy.savez_compressed` wrote, by name.

    Args:
        path: the file.
        sha256: what its digest must be; None for any.

    Raises:
        ResourceError: this machine lacks something that reading takes.
        FileError: it is missing, cut, forged or too large, or holds what is neither number nor text.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except UnreadableError as error:
        raise FileError(path, f"cannot be read: {error}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise FileError(path, "is not the file the run wrote (SHA-256 differs)")
    try:
        return dict(_unpacked(content))
    except ResourceError:
        raise
    except Exception as error:  # of a damaged archive almost anything may come
        raise FileError(path, f"is damaged ({' '.join(str(error).split())[:200] or type(error).__name__})") from error


def _unpacked(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        if len(names) < len(members) or len(members) > _MOST_ARRAYS:
            raise ValueError(f"{len(members)} members of {len(names)} names")
        if (size := sum(member.file_size for member in members)) > MOST_BYTES:
            raise ValueError(f"it unpacks to {size} bytes")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{shown(member.filename)} is packed in a way that numpy does not pack")
            with archive.open(member) as file:
                # No more than it says, and that is checked: `read()` would unpack all that there is.
                yield member.filename.removesuffix(".npy"), _array(file.read(member.file_size), member.filename)


def _array(content: bytes, name: str) -> np.ndarray:
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{shown(name)} is of another version of the format")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in _KINDS:
        raise ValueError(f"{shown(name)} holds {dtype}, neither numbers nor text")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{shown(name)} is not as long as it says")
    flat = np.frombuffer(content, dtype, offset=file.tell()).astype(dtype.newbyteorder("="))
    if dtype.kind == "U" and flat.view(np.uint32).max(initial=0) > _LAST_CODE_POINT:
        raise ValueError(f"{shown(name)} holds what is no text")
    return flat.reshape(shape, order="F" if by_columns else "C")
