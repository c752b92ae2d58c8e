"""Reads pickles of plain values from people we do not know, without running anything."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from petl_bench.errors import DataError

#: bytes of a file, and values it may expand to: shared lists make a file of 300 bytes explode when it is walked
MAX_BYTES = 200_000_000
MAX_VALUES = 20_000_000


class _PlainUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, tuples, sets, strings, bytes and numbers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to values outside the file")


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle that holds plain values only, also one of Python 2.

    Raises:
        DataError: if it cannot be read, is too large, is damaged, or holds anything that is not plain.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} has {size} bytes: too large for annotations, refusing it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read annotation file {path}: {error.strerror}") from error
    try:
        value = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    # A damaged stream makes the unpickler raise almost anything, also for want of memory.
    except Exception as error:
        raise DataError(f"{path} is no pickle of plain values: {error or type(error).__name__}; refusing it") from error
    _require_small(value, path)
    return value


def _require_small(value: Any, path: Path) -> None:
    stack, seen = [value], 0
    while stack:
        seen += 1
        if seen > MAX_VALUES:
            raise DataError(f"{path} expands to more than {MAX_VALUES} values; refusing it")
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend(item)
