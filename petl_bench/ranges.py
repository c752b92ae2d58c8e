"""Types of constructor arguments that say which numbers are allowed: checked while parsing, shown by `--help`.

`jsonargparse.typing` has such types, too, but their values are instances of classes of its own, which neither YAML nor
a checkpoint of plain values can hold; these give plain numbers. To a type checker they are `int` and `float`.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import register_type

from petl_bench.formats import shown

#: the largest number of anything: sizes and counts are 32-bit integers somewhere below
MOST = 2**31 - 1
#: widths, ranks and lengths: a square matrix of this size is 16 GB
WIDEST = 2**16

_YAML_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


def whole_number(value: Any) -> int:
    """The whole number that a value of a configuration or of the command line is.

    Raises:
        ValueError: it is none; `true` is none, either.
    """
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("no whole number")


def number(value: Any) -> float:
    """The number that a value of a configuration or of the command line is; NaN and infinity are numbers here.

    Raises:
        ValueError: it is none; `true` is none, either.
    """
    if isinstance(value, str):
        return float(_YAML_FLOATS.get(value.strip().lower(), value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError("no number")


def _registered(name: str, base: type, read: Callable[[Any], Any], wanted: str, fits: Callable[[Any], bool]) -> Any:
    def deserialise(value: Any) -> Any:
        try:
            found = read(value)
        except (ValueError, OverflowError):
            found = None
        if found is None or not fits(found):
            raise ValueError(f"expected {wanted}, got {shown(value)}")
        return found

    # Never true: a value from a file is a plain number already, and is looked at like one from the command line.
    kind = type(name, (base,), {"__module__": __name__, "__doc__": f"{wanted}.", "read": staticmethod(deserialise)})
    register_type(kind, serializer=base, deserializer=deserialise, type_check=lambda value, _: False)
    return kind


def _whole(name: str, low: int, high: int) -> Any:
    wanted = f"a whole number from {low} to {high}"
    return _registered(name, int, whole_number, wanted, lambda value: low <= value <= high)


def _real(name: str, wanted: str, fits: Callable[[float], bool]) -> Any:
    return _registered(name, float, number, wanted, fits)


def argument(kind: type) -> Callable[[str], Any]:
    """What argparse calls for an option of one of the types below."""

    def read(text: str) -> Any:
        try:
            return kind.read(text)  # type: ignore[attr-defined]  # to a type checker it is int or float
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


if TYPE_CHECKING:
    Count = NonNegativeCount = Size = Seed = Processes = int
    Finite = Positive = Limit = NonNegative = Share = ShareBelowOne = float
else:
    Count = _whole("Count", 1, MOST)
    NonNegativeCount = _whole("NonNegativeCount", 0, MOST)
    Size = _whole("Size", 1, WIDEST)
    Seed = _whole("Seed", 0, 2**32 - 1)
    Processes = _whole("Processes", 0, 1024)
    Finite = _real("Finite", "a finite number", math.isfinite)
    Positive = _real("Positive", "a finite number above 0", lambda value: 0 < value < math.inf)
    # Of seconds and GiB: more is none, and overflows in the system's own numbers.
    Limit = _real("Limit", "a number above 0, at most 1000000", lambda value: 0 < value <= 10**6)
    NonNegative = _real("NonNegative", "a finite number, at least 0", lambda value: 0 <= value < math.inf)
    Share = _real("Share", "a share from 0 to 1", lambda value: 0 <= value <= 1)
    ShareBelowOne = _real("ShareBelowOne", "a share from 0 to below 1", lambda value: 0 <= value < 1)
