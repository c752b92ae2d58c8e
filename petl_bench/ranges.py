"""Types of constructor arguments that say which numbers are allowed: checked while parsing, shown by `--help`.

`jsonargparse.typing` has such types, too, but their values are instances of classes of its own, which neither YAML nor
a checkpoint of plain values can hold; these give plain numbers. To a type checker they are `int` and `float`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from jsonargparse.typing import register_type

from petl_bench.errors import UsageError
from petl_bench.formats import shown

#: the largest number of anything: sizes and counts are 32-bit integers somewhere below
MOST = 2**31 - 1
#: widths, ranks and lengths: a square matrix of this size is 16 GB
WIDEST = 2**16

_RANGES: set[Any] = set()
_YAML_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


def whole_number(value: Any) -> int:
    """The whole number that a value of a configuration or of the command line is.

    Raises:
        ValueError: it is none; `true` is none, either.
    """
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return int(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError("no whole number")


def number(value: Any) -> float:
    """The number that a value of a configuration or of the command line is; NaN and infinity are numbers here.

    Raises:
        ValueError: it is none; `true` is none, either.
    """
    if isinstance(value, str):
        return float(_YAML_FLOATS.get(value.strip().lower(), value))
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
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
    _RANGES.add(kind)
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


class Checked:
    """A class whose arguments are held to the ranges and choices in their annotations, whoever calls the constructor.

    A parser does so for what comes from configurations and the command line; tests and notebooks call constructors
    themselves. The types of this module and `Literal` are looked at, also as one of several (`Size | None`).

    Raises:
        UsageError: naming class, argument, what is expected and what was given.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Not in `__init__`: what a subclass is given would be used before its base could look at it.
        given = dict(zip(_positional(cls), args, strict=False)) | kwargs
        hints = constructor_hints(cls)
        for name, value in given.items():
            if wanted := _unmet(hints.get(name), value):
                choices = " or ".join([", ".join(wanted[:-1]), wanted[-1]] if wanted[1:] else wanted)
                raise UsageError(f"{cls.__name__}.{name}: expected {choices}, got {shown(value)}")
        return super().__new__(cls)


@functools.cache
def constructor_hints(kind: Any) -> dict[str, Any]:
    """The types of a constructor's arguments, those that it hands on to its bases included."""
    found: dict[str, Any] = {}
    for one in reversed(getattr(kind, "__mro__", ())):
        if "__init__" in vars(one):
            try:
                found |= typing.get_type_hints(one.__init__)
            except (NameError, TypeError):  # names that a library imports for type checkers only
                continue
    return found


@functools.cache
def _positional(kind: type) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.__init__).parameters)[1:]


def _unmet(hint: Any, value: Any) -> list[str]:
    """What would be taken instead of a value; nothing if it is taken, or if the type does not say what is."""
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return [] if value in choices else [shown(choice).strip("'") for choice in choices]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        unmet = [_unmet(one, value) for one in typing.get_args(hint)]
        return [] if [] in unmet else [wanted for one in unmet for wanted in one]
    if typing.get_origin(hint) is tuple and isinstance(value, (tuple, list)):
        parts = zip(typing.get_args(hint), value, strict=False)
        return next((wanted for one, item in parts if (wanted := _unmet(one, item))), [])
    if typing.get_origin(hint) in (list, Sequence) and isinstance(value, (tuple, list)):
        (one,) = typing.get_args(hint)
        return next((wanted for item in value if (wanted := _unmet(one, item))), [])
    if hint is type(None):
        return [] if value is None else ["null"]
    if hint not in _RANGES:
        return []
    try:
        if isinstance(value, str):  # which only a parser makes a number of
            raise ValueError
        hint.read(value)
    except ValueError:
        return [hint.__doc__.removesuffix(".")]
    return []


if TYPE_CHECKING:
    Count = NonNegativeCount = Size = NonNegativeSize = OddSize = TextLength = Seed = Processes = Quality = int
    Finite = Positive = Limit = NonNegative = Share = ShareBelowOne = float
else:
    Count = _whole("Count", 1, MOST)
    NonNegativeCount = _whole("NonNegativeCount", 0, MOST)
    Size = _whole("Size", 1, WIDEST)
    NonNegativeSize = _whole("NonNegativeSize", 0, WIDEST)
    OddSize = _registered(
        "OddSize",
        int,
        whole_number,
        f"an odd number from 1 to {WIDEST - 1}",
        lambda value: 1 <= value < WIDEST and value % 2 == 1,
    )
    # Start, end and something between.
    TextLength = _whole("TextLength", 3, WIDEST)
    Seed = _whole("Seed", 0, 2**32 - 1)
    Processes = _whole("Processes", 0, 1024)
    Quality = _whole("Quality", 1, 100)
    Finite = _real("Finite", "a finite number", math.isfinite)
    Positive = _real("Positive", "a finite number above 0", lambda value: 0 < value < math.inf)
    # Of seconds and GiB: more is none, and overflows in the system's own numbers.
    Limit = _real("Limit", "a number above 0, at most 1000000", lambda value: 0 < value <= 10**6)
    NonNegative = _real("NonNegative", "a finite number, at least 0", lambda value: 0 <= value < math.inf)
    Share = _real("Share", "a share from 0 to 1", lambda value: 0 <= value <= 1)
    ShareBelowOne = _real("ShareBelowOne", "a share from 0 to below 1", lambda value: 0 <= value < 1)
