"""petl-bench in a fork of this process, which has imported everything: six seconds less for each command."""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from benchmarks.children import end_with

#: imported by each command itself: what they hold depends on its environment, or on what it calls a plug-in
_ITS_OWN = ("__main__", "benchmarks", "methods", "datamodules", "petl_bench.methods", "petl_bench.datamodules")
_TICK = 0.005


class Forked:
    """A started command: what there is of `subprocess.Popen` for a child that is no program of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None as long as it runs."""
        if self._code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if found else None
        return self._code

    def wait(self, timeout: float = float("inf")) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: after so many seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("petl-bench", timeout)
            time.sleep(_TICK)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)


def start(arguments: Sequence[str], output: IO[str] | int, variables: Mapping[str, str], folder: Path) -> Forked:
    """Starts petl-bench in a session of its own.

    Args:
        arguments: of petl-bench.
        output: a file that takes all that is printed, or `subprocess.DEVNULL`.
        variables: its whole environment.
        folder: that it runs in.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        end_with(partial(_started, arguments, output, variables, folder))
    return Forked(pid)


def _started(arguments: Sequence[str], output: IO[str] | int, variables: Mapping[str, str], folder: Path) -> int:
    os.setsid()
    descriptor = os.open(os.devnull, os.O_WRONLY) if isinstance(output, int) else output.fileno()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(one, "w", closefd=False, errors="backslashreplace") for one in (1, 2))
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    return become(arguments)


def become(arguments: Sequence[str]) -> int:
    """Makes this process petl-bench, as `python -m petl_bench` does, with the streams that it has; its exit code."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGHUP else signal.default_int_handler)
    sys.argv = ["petl-bench", *arguments]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("petl_bench.__main__")  # what Lightning gives ranks
    from petl_bench.main import console

    try:
        console()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 70
    return 70


def import_what_is_used_by(arguments: Sequence[str], folder: Path) -> None:
    """Imports what a command of petl-bench imports; it runs in a child, so nothing else of it stays here."""
    names, log = folder / "modules.txt", folder / "modules.log"
    child = os.fork()
    if not child:
        end_with(partial(_write_modules, arguments, names), log)
    if Forked(child).wait():
        raise RuntimeError(f"the run that shows what is imported failed: {log.read_text()[-500:]}")
    for name in names.read_text().split():
        if not f"{name}.".startswith(tuple(f"{own}." for own in _ITS_OWN)):
            with suppress(Exception):  # such as parts of a package that it puts into sys.modules under another name
                importlib.import_module(name)


def _write_modules(arguments: Sequence[str], names: Path) -> int:
    from petl_bench.main import main

    code = main(arguments)
    names.write_text("\n".join(sys.modules))
    return code
