"""Tries a command many times from a process that has imported everything: a fork in place of six seconds of imports.

    python -m benchmarks.faults.warm ARGUMENT ...

runs one command to have everything imported, then takes a `Try` as JSON on each line of its input. Each gets a process
of its own, leader of a session and a process group, which gives a sign when the moment of the try has come; another
process, outside the group, waits for that, signals the whole group, and writes down in `outcome.json` how it ended.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.children import end_with
from benchmarks.faults.forked import Forked, become

#: seconds that a try gets until its moment, and from the signal on, before it is killed
_UNTIL, _PATIENCE = 60.0, 20.0
OUTCOME, OUTPUT = "outcome.json", "output.txt"


@dataclass(frozen=True)
class Try:
    """One command and the moment at which its process group is signalled.

    Attributes:
        folder: of its output.
        arguments: of `petl-bench`.
        moment: as in `_moments`, or a pattern of files in `folder` of which one comes to be; empty for the start.
        count: how many times the moment comes before it is the one.
        delay: seconds from then to the signal.
        number: of the signal; 0 sends none.
        again: seconds to a second one; negative for none.
        hold: seconds for which the moment is drawn out, and those of its kind after it.
        cold: whether it is a fresh interpreter, and this is its command line.
    """

    folder: str
    arguments: list[str]
    moment: str = ""
    count: int = 1
    delay: float = 0.0
    number: int = signal.SIGTERM
    again: float = -1.0
    hold: float = 0.0
    cold: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a try ended.

    Attributes:
        code: exit code; negative for a signal.
        seconds: from the signal to the end.
        steps: optimiser steps that were done when the signal came.
        left: processes of the group that were alive two seconds after the end.
        text: what it printed.
    """

    code: int
    seconds: float
    steps: int
    left: int
    text: str


# --- moments: what gives the sign, in the process of a try ------------------------------------------------------------


def _calls(owner: Any, name: str, hold: Callable[[], float]) -> None:
    """Has a method take its time before it does what it does."""
    original = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        time.sleep(hold())
        return original(*args, **kwargs)

    setattr(owner, name, called)


def _moments() -> dict[str, tuple[Any, str]]:
    """Methods that are called at each kind of moment; imported late, in a process that is to be warm."""
    import multiprocessing.process

    import torch.utils.data.dataloader

    from petl_bench.data.cache import FrameCache
    from petl_bench.data.datasets import ClipLoader
    from petl_bench.data.manifest import Entry
    from petl_bench.method import Method
    from petl_bench.storage.checkpoints import SafeCheckpointIO

    loaders: Any = torch.utils.data.dataloader
    return {
        "in a step": (Method, "training_step"),
        "in an optimiser step": (torch.optim.AdamW, "step"),
        "between batches": (ClipLoader, "load"),
        "while saving": (SafeCheckpointIO, "_replace"),
        "in validation": (Method, "validation_step"),
        "in the test": (Method, "test_step"),
        "while helpers start": (multiprocessing.process.BaseProcess, "start"),
        "while helpers are shut down": (loaders._MultiProcessingDataLoaderIter, "_shutdown_workers"),
        "while caching": (FrameCache, "store"),
        "while verifying": (Entry, "line"),
    }


# --- the process of a try, and the one that watches it ----------------------------------------------------------------


def _perform(one: Try, sign: int, steps: mmap.mmap) -> int:
    """Becomes the process of a try; its exit code."""
    os.setsid()
    output = os.open(Path(one.folder) / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if one.cold:
        os.execv(one.cold[0], one.cold)
    from petl_bench.method import Method

    seen = mmap.mmap(-1, 8)  # shared with loader processes

    def give_sign() -> float:
        seen[0] = min(seen[0] + 1, 255)
        if seen[0] == one.count:
            os.write(sign, b".")
        return one.hold if seen[0] >= one.count else 0.0

    if place := _moments().get(one.moment):
        _calls(*place, give_sign)
    stepped = Method.optimizer_step

    def counted(*args: Any, **kwargs: Any) -> None:
        stepped(*args, **kwargs)
        steps[:8] = (int.from_bytes(steps[:8], "little") + 1).to_bytes(8, "little")

    Method.optimizer_step = counted  # type: ignore[method-assign]
    return become(one.arguments)


def _watch(one: Try) -> None:
    """Forks the process of a try, signals its group at its moment, and writes down how it ends."""
    sign, give = os.pipe()
    steps = mmap.mmap(-1, 8)
    process = os.fork()
    if not process:
        os.close(sign)
        end_with(partial(_perform, one, give, steps))
    os.close(give)
    os.set_blocking(sign, False)
    deadline = time.monotonic() + _UNTIL
    while one.moment and not _has_come(one, sign) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(one.delay)
    done = int.from_bytes(steps[:8], "little")
    started = time.monotonic()
    if one.number:
        _signal(process, one.number)
    if one.again >= 0:
        time.sleep(one.again)
        _signal(process, one.number)
    code = _wait(process, _PATIENCE if one.number else _UNTIL)
    seconds = time.monotonic() - started
    left = _left(one, process)
    text = (Path(one.folder) / OUTPUT).read_text(errors="replace")
    path = Path(one.folder) / OUTCOME
    path.with_suffix(".new").write_text(json.dumps(asdict(Outcome(code, seconds, done, left, text))))
    path.with_suffix(".new").rename(path)


def _has_come(one: Try, sign: int) -> bool:
    if "*" in one.moment:
        return any(Path(one.folder).glob(one.moment))
    try:
        return os.read(sign, 1) in (b".", b"")  # the latter is the end of the process
    except BlockingIOError:
        return False


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _wait(process: int, patience: float) -> int:
    try:
        return Forked(process).wait(patience)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        return Forked(process).wait()


def _left(one: Try, session: int) -> int:
    """How many processes of a try are alive after two seconds; they are killed."""
    deadline = time.monotonic() + 2
    while alive := _alive(one.folder.encode(), session):
        if time.monotonic() > deadline:
            for process in alive:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return len(alive)
        time.sleep(0.02)
    return 0


def _alive(folder: bytes, session: int) -> list[int]:
    """Processes of a session, or told of a folder (torchrun gives ranks sessions of their own), that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, of = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX" and (int(of) == session or folder in (path / "cmdline").read_bytes()):
                found.append(int(path.name))
    return found


def main(arguments: Sequence[str]) -> None:
    """Runs a command, then forks for each line."""
    import petl_bench.commands.data
    import petl_bench.commands.run  # noqa: F401  # to have it imported
    from petl_bench.main import main as petl_bench_main

    petl_bench_main(arguments)  # the rest of what is imported late
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("warm", flush=True)
    for line in sys.stdin:
        one = Try(**json.loads(line))
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(one)
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
