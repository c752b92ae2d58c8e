"""Which file each loader process is at, so that its death or silence can be put down to one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb

import torch
from torch.utils.data import get_worker_info

from petl_bench.errors import DataError
from petl_bench.machine.resources import exhausted, helper_lacked_by
from petl_bench.machine.signals import tell_no_deaths

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
def named_when_lost(files: CurrentFiles) -> Iterator[None]:
    """Turns the loss of a loader process inside the block into an error that names the files it may have been at.

    Raises:
        ResourceError: it died for want of memory, files or threads.
        DataError: a loader process died, or gave nothing for `loader_timeout` seconds.
    """
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        tell_no_deaths()  # torch would do so a second time
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
