"""The processes and the thread of a loader: how they start and end, and which file each is at when it dies or hangs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from petl_bench.errors import DataError
from petl_bench.machine.resources import exhausted, exit_code_of, helper_lacked, helper_lacked_by
from petl_bench.machine.signals import STOP, as_helper, ignore_worker_deaths, starting_helpers

#: bytes of a path that are kept, from its end
_WIDTH = 512


class CurrentFiles:
    """A board in shared memory with one line for each loader process.

    Args:
        processes: how many there are; without any, there is no memory to share.

    Raises:
        DataError: shared memory cannot be had.
    """

    def __init__(self, processes: int) -> None:
        self._lines = torch.zeros(processes, _WIDTH, dtype=torch.uint8)
        if processes:
            self._lines.share_memory_()

    def publish(self, path: Path) -> None:
        """Writes down the file that this loader process begins to read; does nothing in the main process."""
        worker = get_worker_info()
        if worker is None or worker.id >= len(self._lines):
            return
        line = str(path).encode(errors="replace")[-_WIDTH:].ljust(_WIDTH, b"\0")
        self._lines[worker.id] = torch.frombuffer(bytearray(line), dtype=torch.uint8)

    def names(self) -> list[str]:
        """The files that are being read, or were read last, by process."""
        lines = (bytes(line.tolist()).rstrip(b"\0").decode(errors="replace") for line in self._lines)
        return [line for line in lines if line]


@contextmanager
def reporting_lost_workers(files: CurrentFiles) -> Iterator[None]:
    """Turns the loss of a loader process inside the block into an error that names the files it may have been at.

    Raises:
        ResourceError: it died for want of memory, files or threads.
        DataError: a loader process died, or gave nothing for `loader_timeout` seconds.
    """
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        ignore_worker_deaths()  # torch would do so a second time
        if not _tells_of_a_loss(error):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if lacking := exhausted(error) or helper_lacked_by(text):
            raise lacking from error
        reading = ", ".join(files.names()) or "unknown"
        raise DataError(
            f"a loader process is lost ({text.split('. ')[0][:120]}); files being read: {reading}; look at them with "
            "petl-bench data verify"
        ) from error


def _tells_of_a_loss(error: Exception) -> bool:
    if re.search(r"DataLoader (worker|timed out)", str(error)):
        return True
    # A process that dies between two batches closes the socket that hands the first one over before it counts as dead.
    return any(Path(frame.filename).parent.name == "multiprocessing" for frame in extract_tb(error.__traceback__))


def as_loader(worker: int) -> None:
    """To be called first in a loader process: `as_helper`, and an end where a thread of its own has nothing to go on.

    Those that hand batches over would lose one, or try again for ever, while the run waits.

    Args:
        worker: torch gives its loaders their number.
    """
    as_helper(worker)
    sys.excepthook = _end_if_exhausted
    Queue._on_queue_feeder_error = staticmethod(_lose)  # type: ignore[attr-defined]  # a hook of the standard library


def _end_if_exhausted(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if exhausted(error):
        os._exit(exit_code_of(error))
    sys.__excepthook__(kind, error, traceback)


def _lose(error: Exception, batch: Any) -> None:
    _end_if_exhausted(type(error), error, error.__traceback__)


class LateLoader(DataLoader[Any]):
    """Starts its processes with the first batch: Lightning asks for an iterator before it has read a checkpoint.

    They leave signals to this process (give `worker_init_fn=as_loader`, too), which heeds them while it waits.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all that anybody needs
        with starting_helpers():
            batches = super().__iter__()
        end = object()
        try:
            with self._taking(partial(_next, batches, end), end) as take:
                while True:
                    with STOP.waiting():
                        batch = take()
                    if batch is end:
                        return
                    yield batch
        finally:
            with STOP.closing():
                del batches

    @contextmanager
    def _taking(self, read: Callable[[], Any], end: object) -> Iterator[Callable[[], Any]]:
        """What gives the next batch, from what reads it; it is not called again after `end`."""
        yield read


class AheadLoader(LateLoader):
    """Reads one batch ahead in a thread, in the order of the batches, where there are no processes that would.

    It helps where reading leaves Python to other threads, as copying and checking cached frames does; torch and
    Lightning read ahead in processes only. What reading raises comes up where the batch is taken.
    """

    @contextmanager
    def _taking(self, read: Callable[[], Any], end: object) -> Iterator[Callable[[], Any]]:
        with ThreadPoolExecutor(1, "petl_bench_ahead", self._thread_begins()) as thread:
            ahead = [thread.submit(read)]

            def take() -> Any:
                batch = ahead.pop().result()
                if batch is not end:
                    ahead.append(thread.submit(read))
                return batch

            yield take

    def _thread_begins(self) -> Callable[[], None] | None:
        """A thread that pins memory would begin on the first GPU, whichever is this process's."""
        if not self.pin_memory or not torch.cuda.is_available():
            return None
        return partial(torch.cuda.set_device, torch.cuda.current_device())


def _next(batches: Iterator[Any], end: object) -> Any:
    """The next batch, or `end`.

    Raises:
        ResourceError: a process of the loader ended for want of what the machine lacks.
    """
    try:
        return next(batches, end)
    except (RuntimeError, EOFError, OSError) as error:
        codes = (process.exitcode for process in getattr(batches, "_workers", ()))
        if lacking := next(filter(None, (helper_lacked(code) for code in codes if code)), None):
            raise lacking from error
        raise
