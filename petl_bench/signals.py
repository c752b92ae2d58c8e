"""Signals end a run with their own exit code; a training step is finished and saved first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal asked the process to end; no `Exception`, so that nobody takes it for a fault.

    Attributes:
        exit_code: 128 and the number of the signal.
        advice: how the work goes on, where it does.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        self.advice = ""


class StopRequest:
    """Handles the signals that ask a process to end.

    Attributes:
        deferred: whether somebody will look at `number` soon; else a signal raises `Stopped` on the spot.
        number: of the signal that came while `deferred`; 0 if there was none. A second one raises at once.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.number = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.deferred and not self.number:
            self.number = number
            # Loader processes may have got the signal, too; their death must not break the step that has its batch.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # print may be what was interrupted
            os.write(2, b"\npetl-bench: stopping after this step, or this validation (once more: at once)\n")
            return
        for asked in _ASKED:
            signal.signal(asked, signal.SIG_DFL)
        raise Stopped(number)


@contextmanager
def handled() -> Iterator[StopRequest]:
    """Inside the block signals raise `Stopped`, at once or when the request that it gives is looked at."""
    request = StopRequest()
    before = {asked: signal.signal(asked, request.receive) for asked in _ASKED}
    try:
        yield request
    except Exception as error:
        # What a signal broke in another process (a loader, a rank) is no fault of its own.
        if request.number:
            raise Stopped(request.number) from error
        raise
    finally:
        for asked, handler in before.items():
            signal.signal(asked, handler)


def left_to_the_parent(worker: int) -> None:
    """Makes a loader process ignore what a terminal or a scheduler sends to all: its parent ends it."""
    for asked in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(asked, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
