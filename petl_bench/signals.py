"""Signals end a run with their own exit code, and say how it goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal asked the process to end; no `Exception`, so that nobody takes it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Inside the block a signal raises `Stopped`, once: a second one ends the process at once.

    Lightning leaves handlers alone that are there before it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for asked in _ASKED:
            signal.signal(asked, signal.SIG_DFL)
        raise Stopped(number)

    before = {asked: signal.signal(asked, stop) for asked in _ASKED}
    try:
        yield
    finally:
        for asked, handler in before.items():
            signal.signal(asked, handler)
