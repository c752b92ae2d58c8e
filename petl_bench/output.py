"""Printing that cannot fail for what is printed: names and captions hold any letters, a terminal takes only some."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def make_printable() -> None:
    """Makes the standard streams take any text, and exist.

    What the encoding of a stream cannot hold (LC_ALL=C, a redirected console of Windows), or no encoding can (file
    names that are not UTF-8 are lone surrogates to Python), is written as an escape such as `\\u4e2d`. Streams that
    whoever started the process has closed are opened on the null device: else the next file that is opened would get
    their number, and what libraries print.
    """
    for number in (0, 1, 2):
        _open_if_closed(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # it stays open
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
