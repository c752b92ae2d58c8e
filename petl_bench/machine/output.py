"""Printing that cannot fail, whatever is printed and wherever it goes: a run outlives the reader of its output.

Names and captions hold any letters, a terminal takes only some; `| head` closes a pipe, a disk gets full. What is lost
is told at the end, by the exit code.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: exit code where the reader of the output has gone, as of a process that SIGPIPE ends
READER_GONE = 141
#: exit code where the output is cut for another reason: that of storage
CUT = 5


class Output:
    """Standard output and error while a command runs.

    Attributes:
        streams: stand-ins that take whatever is printed, by name.
    """

    def __init__(self, streams: dict[str, _Forgiving]) -> None:
        self.streams = streams

    def code(self, code: int, leads: bool) -> int:
        """The exit code of a command that ended with this one; says if its output is cut.

        Only the first process of a run (`leads`) has one that is read. What is cut of standard error was for somebody
        to look at; where nobody does, nothing that was asked for is lost.
        """
        for name in ("stdout", "stderr"):
            with suppress(OSError, ValueError):
                getattr(sys, name).flush()
        stream = self.streams.get("stdout")
        if code or stream is None or stream.failure is None or not leads:
            return code
        if stream.failure.errno == errno.EPIPE:
            return READER_GONE
        with suppress(OSError, ValueError):
            print(
                f"petl-bench: error: what was printed is cut ({stream.failure.strerror}): standard output takes no "
                "more; the work itself is done, and its files are whole",
                file=sys.stderr,
                flush=True,
            )
        return CUT


@contextmanager
def printable() -> Iterator[Output]:
    r"""Inside the block the standard streams take any text, exist, and raise nothing.

    What the encoding of a stream cannot hold (LC_ALL=C, a redirected console of Windows), or no encoding can (file
    names that are not UTF-8 are lone surrogates to Python), is written as an escape such as `\u4e2d`. Streams that
    whoever started the process has closed are opened on the null device: else the next file that is opened would get
    their number, and what libraries print. Streams that are no files (a notebook's, a test's) are left as they are.
    """
    make_printable()
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    forgiving = {name: raw for name, stream in before.items() if (raw := _forgiving(stream))}
    mine = {name: _text_stream(raw, before[name]) for name, raw in forgiving.items()}
    for name, stream in mine.items():
        setattr(sys, name, stream)
    try:
        yield Output(forgiving)
    finally:
        for name, stream in mine.items():
            stream.flush()
            if getattr(sys, name) is stream:
                setattr(sys, name, before[name])


def make_printable() -> None:
    """Makes the standard streams exist and take any text, see `printable`; for good."""
    for number in (0, 1, 2):
        _open_if_closed(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # it stays open
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def console(**options: Any) -> Console:
    """The console that tables are printed on; it does not end the process when the reader is gone."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise  # rich calls this where it catches a BrokenPipeError, and would exit with 1

    return _Console(**options)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """Prints rows of text; the first `left` columns are flush left."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=any(header))
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


class _Forgiving(io.FileIO):
    """A file that takes whatever is written; after the first failure into nothing.

    Attributes:
        failure: the first one.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                written = super().write(left)
                if written is None:  # who else has the file open made it non-blocking
                    select.select((), (self,), ())
                left = left[written or 0 :]
        except OSError as error:
            self.failure = error
        return size


def _forgiving(stream: object) -> _Forgiving | None:
    """Writes to where a stream does, if that is plainly a file."""
    if type(stream) is not io.TextIOWrapper:
        return None
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if type(raw) is not io.FileIO or raw.fileno() not in (1, 2):
        return None
    with suppress(OSError, ValueError):
        stream.flush()
    return _Forgiving(raw.fileno(), "w", closefd=False)


def _text_stream(raw: _Forgiving, like: TextIO) -> TextIO:
    assert isinstance(like, io.TextIOWrapper)
    unbuffered = isinstance(like.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # type: ignore[arg-type]  # as Python itself does
        encoding=like.encoding,
        errors="backslashreplace",
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
