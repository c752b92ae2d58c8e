"""Work in a fork of this process, which has imported everything already."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def end_with(work: Callable[[], int], output: Path | None = None) -> NoReturn:
    """In the child: does the work, and ends the process with the code that it gives, or 70 if it raises.

    Args:
        work: gives the exit code.
        output: a file that takes all that is printed, a traceback too; the streams of the parent if there is none.
    """
    code = 70
    try:
        if output is not None:
            descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
