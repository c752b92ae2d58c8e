"""Which lines of some functions are reached; nothing else is traced, so that it costs little."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

#: characters of a constant that is no part of a message
_LONGEST = 20


class Line(NamedTuple):
    """A line of source."""

    file: str
    number: int


class LineCoverage:
    """Records the lines of functions that run inside the block.

    Args:
        functions: with the functions, lambdas and comprehensions inside them.
    """

    def __init__(self, functions: Iterable[FunctionType]) -> None:
        self._codes: set[CodeType] = set()
        #: all lines that can run, and those that did
        self.lines: set[Line] = set()
        self.reached: set[Line] = set()
        for function in functions:
            for code in _with_nested(function.__code__):
                self._codes.add(code)
                self.lines |= _lines(code, function.__code__)

    def __enter__(self) -> LineCoverage:
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self.reached &= self.lines

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._on_line if frame.f_code in self._codes else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.reached.add(Line(frame.f_code.co_filename, frame.f_lineno))
        return self._on_line


def constants_of(functions: Iterable[FunctionType]) -> list[Any]:
    """Short texts and numbers in the code of functions: what they compare with, among others."""
    codes = (code for function in functions for code in _with_nested(function.__code__))
    plain = (constant for code in codes for constant in code.co_consts if isinstance(constant, (str, int, float)))
    return list(dict.fromkeys(c for c in plain if not isinstance(c, str) or (len(c) <= _LONGEST and c.isprintable())))


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _lines(code: CodeType, outer: CodeType) -> set[Line]:
    """The lines of a piece of code, without the `def` of a function and its decorators."""
    numbers = {number for _, _, number in code.co_lines() if number is not None}
    return {Line(code.co_filename, number) for number in numbers if code is not outer or number != code.co_firstlineno}
