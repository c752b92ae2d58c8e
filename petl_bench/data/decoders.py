"""What the server that `petl-bench data verify` forks its processes from imports first: it ends with who started it."""

import sys
from types import TracebackType

from petl_bench.machine.resources import exhausted
from petl_bench.machine.signals import as_helper


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Lets the process that started the server say in one line what ran out."""
    if exhausted(error) is None:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _tell
as_helper()
