"""Arrays from files of anybody: what numpy wrote comes back, all else is one line and fills no memory."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petl_bench.storage.arrays import MOST_BYTES, read_arrays
from petl_bench.storage.files import FileError

ARRAYS = {
    "ranks": np.arange(1, 7, dtype=np.int32),
    "hits": np.arange(12, dtype=np.int32).reshape(4, 3),
    "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "swapped": np.arange(3, dtype=">i8"),
    "words": np.array(["a red circle", "", "zażółć \U0001f600"]),
    "none": np.zeros((0, 3), dtype=np.int32),
}


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def header_of(shape: str, descr: str = "<i4") -> bytes:
    """The beginning of an array that says what shape it has."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def archive(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "ranks.npz"
    save(path, **ARRAYS)
    found = read_arrays(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype.isnative
        assert found[name].flags.writeable


def bomb_that_lies() -> bytes:
    """Says that a member has 100 bytes, which unpack to 20 MB."""
    content = archive({"a.npy": bytes(20_000_000)})
    size = struct.pack("<I", 20_000_000)
    assert content.count(size) == 2
    return content.replace(size, struct.pack("<I", 100))


def bomb_that_does_not() -> bytes:
    """Says that it unpacks to more than is read; nothing needs to be there."""
    content = archive({"a.npy": npy(ARRAYS["ranks"])})
    size = struct.pack("<I", len(npy(ARRAYS["ranks"])))
    assert content.count(size) == 2
    return content.replace(size, struct.pack("<I", MOST_BYTES + 1))


def twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in ("a.npy", "b.npy"):
            file.writestr(name, npy(ARRAYS["ranks"]))
    return out.getvalue().replace(b"b.npy", b"a.npy")


def of_no_text() -> bytes:
    return npy(np.array([0x110000], dtype=np.uint32).view("<U1"))


GOOD = archive({"a.npy": npy(ARRAYS["ranks"])})
BAD = {
    "cut": (lambda: GOOD[:-30], "is damaged"),
    "empty": (lambda: b"", "is damaged"),
    "text": (lambda: b"<html>", "is damaged"),
    "a changed byte": (lambda: archive({"a.npy": npy(ARRAYS["words"])}, 0).replace(b"r\0\0\0e", b"r\0\0\0a"), "CRC"),
    "pickled": (lambda: archive({"a.npy": npy(np.array([{}], dtype=object))}), "'a.npy' holds object, neither"),
    "structured": (lambda: archive({"a.npy": npy(np.zeros(2, dtype="i4,f8"))}), "neither numbers nor text"),
    "bytes": (lambda: archive({"a.npy": npy(np.array([b"a"]))}), "neither numbers nor text"),
    "no array": (lambda: archive({"a.npy": b"12345678"}), "is damaged"),
    "version 2": (lambda: archive({"a.npy": b"\x93NUMPY\x02\x00" + bytes(64)}), "another version"),
    "longer than it says": (lambda: archive({"a.npy": header_of("(2,)") + bytes(40)}), "not as long as it says"),
    "shorter": (lambda: archive({"a.npy": header_of(f"({2**60},)") + bytes(8)}), "not as long as it says"),
    "negative": (lambda: archive({"a.npy": header_of("(-2, -1)") + bytes(8)}), "is damaged"),
    "of nothing": (lambda: archive({"a.npy": header_of(f"({2**40},)", "<U0")}), "is damaged"),
    "no text": (lambda: archive({"a.npy": of_no_text()}), "holds what is no text"),
    "bzip2": (lambda: archive({"a.npy": npy(ARRAYS["ranks"])}, zipfile.ZIP_BZIP2), "packed in a way"),
    "too many": (lambda: archive({f"{place}.npy": b"" for place in range(65)}), "65 members"),
    "twice": (twice, "2 members of 1 names"),
    "a bomb that lies": (bomb_that_lies, "is damaged"),
    "a bomb": (bomb_that_does_not, f"unpacks to {MOST_BYTES + 1} bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files(what: str, tmp_path: Path) -> None:
    make, told = BAD[what]
    path = tmp_path / "ranks.npz"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=told) as caught:
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_arrays(tmp_path / "ranks.npz")
    with pytest.raises(FileError, match="a folder"):
        read_arrays(tmp_path)
    (tmp_path / "large.npz").touch()
    with (tmp_path / "large.npz").open("r+b") as file:
        file.truncate(MOST_BYTES + 1)  # a hole, which takes no disk
    with pytest.raises(FileError, match="too many"):
        read_arrays(tmp_path / "large.npz")


def test_a_file_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "ranks.npz").write_bytes(GOOD)
    with pytest.raises(FileError, match="is not the file the run wrote"):
        read_arrays(tmp_path / "ranks.npz", "0" * 64)
