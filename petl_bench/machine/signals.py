"""A signal ends a process within seconds: its work is saved, its helpers are ended, and it prints how to resume.

Terminals, schedulers and `timeout` signal a whole process group. One process of it decides (several, where a run has
ranks); those that only help it are started with the signals blocked, so that a step still gets its batch, and end when
it says so or is gone.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn
from weakref import WeakSet

from petl_bench.errors import DistributedError, PetlBenchError
from petl_bench.machine.launch import LAUNCHED_BY, this_launch

ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: seconds from the signal on: that a step has to its end, that everything has, and that a save may take
_PATIENCE, _LIMIT, _SAVING = 3.0, 7.0, 60.0
#: seconds that the main thread has to answer, and to be gone once it has saved; how often the thread looks
_ANSWER, _GONE, _POLL = 1.0, 2.0, 0.05
_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """A signal asked the process to end; no `Exception`, so that nobody takes it for a fault.

    Attributes:
        exit_code: 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class When(IntEnum):
    """When a signal ends the work at hand."""

    AT_ONCE = 0
    #: somebody looks soon; after `_PATIENCE` seconds at once
    SOON = 1
    #: not in the middle of this, which is short: half of it would be worse than nothing
    AFTERWARDS = 2


#: before a command knows better
_NOTHING_BEGUN = "; nothing was begun, so nothing is lost"


class StopRequest:
    """What the signals to this process ask for.

    A watching thread sees to the end where the main thread does not, because it is busy in C, or because what was
    raised in it got lost: it has `rescue` called and ends the process.

    Attributes:
        number: of the first signal; 0 if none came. Another one changes nothing.
        when: when it is heeded.
        unwinds: whether the end is a `Stopped` that is raised, or comes on the spot: there is nothing to clean up while
            everything is being imported, and C++ code that calls back into Python may not stand an exception.
        alone: False in one of several processes that must end their step together.
        ends_others: whether it may end in the middle of a step all the same where that takes too long, as the one that
            then ends the others.
        heard: the signal that any process of the run had got when they last told each other; 0 if none.
        leaving: whether somebody has taken up `Stopped` and is ending the work.
        rank: of this process in its run; None as long as only its launcher knows.
        advice: gives the end of the last line, which says how the work goes on.
        rescue: saves what is not saved, once; called in whatever thread can.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything, as at the start of a process."""
        self.number, self.when, self.unwinds, self.alone, self.leaving = 0, When.AT_ONCE, True, True, False
        self.ends_others, self.heard = False, 0
        self.rank: int | None = None
        self.advice: Callable[[], str] = _NOTHING_BEGUN.__str__
        self.rescue: Callable[[], None] | None = None
        self._raised = self._overdue = self._rescuing = False
        self._turn, self._once = threading.Lock(), threading.Lock()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if not self.number:
            self.number = number
            if self.when is When.SOON:
                self._print("\npetl-bench: stopping after this step\n")
            if self.alone:  # nobody waits for another batch
                end_helpers()
        self.look()

    def agree(self, number: int) -> None:
        """Takes over what the other processes of the run were asked for."""
        self.number = self.number or number
        self.alone = True

    def look(self) -> None:
        """Heeds a signal that has come, if this is the time.

        Raises:
            Stopped: it is.
        """
        if not self.number or self.leaving or self.when is When.AFTERWARDS:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        if self.when is When.SOON and not (self._overdue and self._decides):
            return
        if self._raised and not self._overdue:  # it is on its way
            return
        self._raised = True
        end_helpers()
        if not self.unwinds:
            self._end()
        raise Stopped(self.number)

    @contextmanager
    def at(self, when: When) -> Iterator[None]:
        """Inside the block signals are heeded at `when`, including one that has come already."""
        before, self.when = self.when, when
        try:
            self.look()
            yield
        finally:
            self.when = before
        self.look()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Around what ends in a destructor, where an exception would be lost: a signal waits for whoever looks next."""
        before, self.when = self.when, When.AFTERWARDS
        yield
        self.when = before

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for a batch, with no step at hand."""
        with self.at(When.AT_ONCE if self.when is When.SOON and self.alone else self.when):
            yield

    def change(self) -> None:
        """Begins what must not be saved half done; ends with the next assignment to `when`, and a new `rescue`.

        Raises:
            Stopped: what was there before is being saved.
        """
        with self._turn:
            if not self._rescuing:
                self.when, self.rescue = When.AFTERWARDS, None
                return
        raise Stopped(self.number)

    def save(self) -> None:
        """Calls `rescue`, once, whichever thread comes first; the other one waits."""
        with self._once:
            rescue, self.rescue = self.rescue, None
            if rescue is not None:
                rescue()

    @property
    def _decides(self) -> bool:
        """Whether nobody else has to agree to its end where that is overdue."""
        return self.alone or self.ends_others

    @property
    def leads(self) -> bool:
        """Whether this process says what all processes of a run would say."""
        if self.rank is None:
            try:
                return this_launch().rank == 0
            except PetlBenchError:  # which is told where it matters
                return True
        return self.rank == 0

    def farewell(self) -> str:
        """The last line."""
        return f"petl-bench: stopped by {signal.Signals(self.number).name}{self.advice()}"

    def _print(self, text: str) -> None:
        # print may be what was interrupted; and a terminal that hung up takes no more words
        if self.leads:
            with suppress(OSError):
                os.write(2, text.encode(errors="replace"))

    # --- the watching thread --------------------------------------------------------------------------------------

    def watch(self, wake: int, gone: threading.Event) -> None:
        """Waits for a signal on `wake`; ends this process where it has not ended by itself, until `gone` is set."""
        number = next((byte for byte in iter(lambda: os.read(wake, 1)[0], 0) if byte in ASKED), 0)
        if not number:
            return
        started = time.monotonic()
        while time.monotonic() < started + (_ANSWER if self.when is When.AT_ONCE else _PATIENCE):
            if gone.wait(_POLL):
                return
        self._overdue = True
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        if gone.wait(_ANSWER):
            return
        self.number = self.number or number
        if not self.leaving:
            self._rescue()
        limit = started + (_LIMIT if self._raised or not self._decides else 0)
        while time.monotonic() < limit:
            if gone.wait(_POLL):
                return
            if self.when is When.AFTERWARDS and time.monotonic() < started + _SAVING:
                limit = max(limit, time.monotonic() + _GONE)
        self._end()

    def _end(self) -> NoReturn:
        try:
            end_helpers()
            self._print(f"\n{self.farewell()}\n")
        finally:
            os._exit(128 + self.number)

    def _rescue(self) -> None:
        with self._turn:
            if self.when is When.AFTERWARDS:
                return
            self._rescuing = True
        thread = threading.Thread(target=self.save, daemon=True)
        thread.start()
        thread.join(_SAVING)


#: of this process
STOP = StopRequest()
#: seeds, signals and the standard streams are the process's own: held by whatever runs a command
ONE_AT_A_TIME = threading.RLock()


def take_over() -> None:
    """Has signals handled from now on to the end of the process, beyond `handled`."""
    STOP.reset()
    STOP.when, STOP.unwinds = When.AFTERWARDS, False
    _install()


def _install() -> dict[signal.Signals, Any]:
    """What handled the signals before."""
    # nohup is there to be asked for: what it ignores stays ignored
    heeded = [asked for asked in ASKED if asked != signal.SIGHUP or signal.getsignal(asked) != signal.SIG_IGN]
    return {asked: signal.signal(asked, STOP.receive) for asked in heeded}


@contextmanager
def handled() -> Iterator[None]:
    """Inside the block the signals raise `Stopped`; helpers that are left at its end are ended."""
    if threading.current_thread() is not threading.main_thread():
        with unhandled():
            yield
        return
    if signal.getsignal(signal.SIGTERM) != STOP.receive:
        STOP.reset()
    STOP.when = When.AFTERWARDS
    _end_with_the_launcher()
    before = _install()
    read, write = os.pipe()
    os.set_blocking(write, False)
    others = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    gone = threading.Event()
    thread = threading.Thread(target=STOP.watch, args=(read, gone), daemon=True)
    thread.start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)  # a launcher starts its ranks with the signals blocked
        STOP.when = When.AT_ONCE
        STOP.look()
        yield
    except Exception as error:
        # What a signal broke in another process is no fault of its own.
        if STOP.number:
            raise Stopped(STOP.number) from error
        raise
    finally:
        STOP.leaving = True
        end_helpers()
        gone.set()
        signal.set_wakeup_fd(others)
        os.write(write, b"\0")
        thread.join()
        for asked, handler in before.items():
            signal.signal(asked, handler)
        os.close(read)
        os.close(write)


@contextmanager
def unhandled() -> Iterator[None]:
    """Inside the block signals are a matter of the program; helpers that are left at its end are ended.

    So it is outside the main thread, and in a call from a program or a notebook.
    """
    if signal.getsignal(signal.SIGTERM) != STOP.receive:
        STOP.reset()  # of a command that was stopped before
    try:
        yield
    finally:
        end_helpers()


def as_rank() -> None:
    """To be called first in a program that may have been started again as another rank of its own run.

    It does not outlive its launcher then, which has started it with the signals blocked.
    """
    _end_with_the_launcher()
    if LAUNCHED_BY in os.environ:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)


def ignore_worker_deaths() -> None:
    """Keeps torch from raising an error for a dead loader process, whatever the main thread is doing then."""
    if threading.current_thread() is threading.main_thread():
        # Of a child that dies as the default comes into force, Python prints "Signal 17 ignored due to race condition".
        signal.signal(signal.SIGCHLD, lambda number, frame: None)


def exit_on_signals() -> None:
    """For a process whose work is done: a signal ends what is left of it, without a message."""
    for asked in ASKED:
        if signal.getsignal(asked) == STOP.receive:
            signal.signal(asked, lambda number, frame: os._exit(128 + number))


# --- helpers ----------------------------------------------------------------------------------------------------------

_helpers: WeakSet[BaseProcess] = WeakSet()


@contextmanager
def starting_helpers() -> Iterator[None]:
    """Processes that are started inside the block leave the signals to this one.

    The signals are blocked for them and not ignored: that is inherited, so there is no moment without it.
    """
    before = set(multiprocessing.active_children())
    with STOP.at(When.AFTERWARDS):
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _helpers.update(set(multiprocessing.active_children()) - before)


def end_helpers() -> None:
    """Ends the processes that were started in `starting_helpers`, which listen to nothing milder."""
    running = [process for process in list(_helpers) if process.exitcode is None]
    if running:
        ignore_worker_deaths()
    for process in running:
        process.kill()
    _helpers.clear()


# Before what multiprocessing has registered: it asks them to end, and waits for ever.
atexit.register(end_helpers)
os.register_at_fork(after_in_child=_helpers.clear)


def as_helper(worker: int = 0) -> None:
    """To be called first in a helper process, so that it does not outlive the process that started it.

    Args:
        worker: torch gives its loaders their number.
    """
    end_with_the_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _end_with_the_launcher() -> None:
    """Ranks do not outlive the process that launched them: they would wait for each other."""
    if launcher := os.environ.get(LAUNCHED_BY):
        end_with_the_parent()
        if str(os.getppid()) != launcher:
            message = f"petl-bench: error: process {launcher} of {LAUNCHED_BY}, which started this one, is gone\n"
            os.write(2, message.encode(errors="replace"))
            os._exit(DistributedError.exit_code)
    elif "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, which a signal may end before the ranks have saved
        end_with_the_parent(signal.SIGTERM)


def end_with_the_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel signal this process when its parent ends, however that ends; Linux alone can."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(_PR_SET_PDEATHSIG, int(number))
