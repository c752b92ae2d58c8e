"""Runs work in a child process that is signalled, or killed, in the middle of it."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[], int], prepare: Callable[[], None] = lambda: None) -> int:
    """Exit code of a process of its own, in which `prepare` laid a trap; negative for a signal."""
    child = os.fork()
    if not child:
        code = 70
        try:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup, which a run respects
            prepare()
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trap(owner: Any, name: str, count: int, number: int = signal.SIGKILL) -> Callable[[], None]:
    """Signals the process when a method has been called so many times."""

    def prepare() -> None:
        original, calls = getattr(owner, name), [0]

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            calls[0] += 1
            if calls[0] == count:
                os.kill(os.getpid(), number)
            return result

        setattr(owner, name, counted)

    return prepare


def group_trap(owner: Any, name: str, count: int, number: int, then: float = 0.0) -> Callable[[], None]:
    """Signals the process group, helpers included, when a method is called for so many times, and takes its time."""

    def prepare() -> None:
        os.setpgrp()
        original, calls = getattr(owner, name), mmap.mmap(-1, 1)  # also seen by helpers

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == count:
                os.killpg(os.getpgrp(), number)
            time.sleep(then if calls[0] >= count else 0)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    return prepare
