"""Out of memory: one line that says what to make smaller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from petl_bench.errors import UsageError

#: what torch says of a CPU's memory, for which it has no error of its own
_OF_CPU = re.compile(r"DefaultCPUAllocator|(not enough|can't allocate|cannot allocate) memory", re.I)
#: sentences of a message that are shown: how much was asked for, and how much there is
_SENTENCES = 3


@contextmanager
def reporting_exhaustion(advice: str) -> Iterator[None]:
    """Reports in one line that work whose size follows from options does not fit into memory.

    Args:
        advice: what to change.

    Raises:
        UsageError: the memory of the GPU or of this machine was not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or _OF_CPU.search(str(error))):
            raise
        said = " ".join(". ".join(str(error).split(". ")[:_SENTENCES]).split()) or type(error).__name__
        raise UsageError(f"out of {'GPU ' * on_gpu}memory: {advice} ({said[:250]})") from error
