"""Runs work in a child process that is signalled, or killed, in the middle of it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from typing import Any

from benchmarks.children import end_with


def in_child(work: Callable[[], int], prepare: Callable[[], None] = lambda: None) -> int:
    """Exit code of a process of its own, in which `prepare` laid a trap; negative for a signal."""
    child = os.fork()
    if not child:
        end_with(partial(_prepared, work, prepare))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _prepared(work: Callable[[], int], prepare: Callable[[], None]) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup, which a run respects
    _forget_the_forkserver()
    prepare()
    return work()


def in_a_fresh_process(work: Callable[..., None], *arguments: Any) -> None:
    """For what depends on what a process did before, such as the memory that it holds, or torch's engine.

    Args:
        work: a function of a module.
        arguments: of it.
    """
    process = fresh_processes().Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def fresh_processes() -> ForkServerContext:
    """Makes processes that have done nothing but import what takes seconds, once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["petl_bench.method"])
    return context


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


def _forget_the_forkserver() -> None:
    """An earlier test may have started one, which is no child of this process."""
    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]  # nothing public forgets it
    server._forkserver_pid = server._forkserver_address = server._forkserver_alive_fd = None


def group_trap(
    owner: Any, name: str, count: int, number: int, then: float = 0.0, after: tuple[Any, str] | None = None
) -> Callable[[], None]:
    """Signals the process group, helpers included, when a method is called for so many times, and takes its time.

    Args:
        owner: of the method.
        name: of the method.
        count: of its calls, in all processes.
        number: of the signal.
        then: seconds that this call and those after it take.
        after: another method that must have been called before, in whatever process.
    """

    def prepare() -> None:
        os.setpgrp()
        original = getattr(owner, name)
        calls, called = multiprocessing.Value("i"), multiprocessing.Event()
        if after is None:
            called.set()
        else:
            _announce(*after, called)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with calls:
                calls.value += 1
                mine = calls.value
            if mine == count:
                called.wait()
                os.killpg(os.getpgrp(), number)
            time.sleep(then if mine >= count else 0)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    return prepare


def _announce(owner: Any, name: str, called: Any) -> None:
    original = getattr(owner, name)

    def told(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        called.set()
        return result

    setattr(owner, name, told)
