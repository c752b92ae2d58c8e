"""Reads untrusted pickles of plain values without running anything."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from petl_bench.errors import DataError
from petl_bench.storage.untrusted import UnreadableError, read_bytes

#: bytes of a file
MAX_BYTES = 200_000_000
#: values for each byte that a file may expand to: shared lists make one of 300 bytes explode when it is walked
_MAX_EXPANSION = 10
#: opcodes that plain values do not need; those that ask for a class stay, so that the message can name it
_REFUSED = (
    *("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"),
    "BYTEARRAY8",  # takes as much memory as it says it needs
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),
)


class _Named(dict[Any, Any]):
    """A dictionary without composite keys: the hash of nested shared tuples takes for ever."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple):
            raise pickle.UnpicklingError("a key of a dictionary is a tuple")
        super().__setitem__(key, value)


#: not the one in C, which takes memory for as many memo entries as four bytes of a file can say
_PurePython: Any = pickle._Unpickler


class _PlainUnpickler(_PurePython):
    """Builds dictionaries, lists, tuples, strings, bytes and numbers, and refuses everything else."""

    def load_dictionary(self) -> None:
        """An empty dictionary; items follow one by one, as all writers of pickles have it."""
        self.append(_Named())

    def load_marked_dictionary(self) -> None:
        """The same in protocol 0."""
        if self.pop_mark():
            raise pickle.UnpicklingError("a dictionary that is written as no writer does")
        self.append(_Named())

    dispatch = {
        code: handler
        for code, handler in _PurePython.dispatch.items()
        if code not in {ord(opcode.code) for opcode in pickletools.opcodes if opcode.name in _REFUSED}
    } | {pickle.EMPTY_DICT[0]: load_dictionary, pickle.DICT[0]: load_marked_dictionary}

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
        return plain_value(read_bytes(path, MAX_BYTES))
    except UnreadableError as error:
        raise DataError(f"cannot read annotation file {path}: {error}") from error


def plain_value(data: bytes) -> Any:
    """The same of the bytes of a pickle.

    Raises:
        UnreadableError: if they are damaged, or hold anything that is not plain.
    """
    try:
        value = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    # A damaged stream makes the unpickler raise almost anything, also for want of memory.
    except Exception as error:
        told = isinstance(error, pickle.UnpicklingError)
        reason = " ".join(str(error).split())[:200] if told else f"damaged, or more than that ({type(error).__name__})"
        raise UnreadableError(f"no pickle of plain values: {reason}; refusing it") from error
    _require_small(value, _MAX_EXPANSION * len(data))
    return value


def _require_small(value: Any, limit: int) -> None:
    stack, seen = [value], 0
    while stack:
        seen += 1
        if seen > limit:
            raise UnreadableError(f"it expands to more than {limit} values; refusing it")
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
