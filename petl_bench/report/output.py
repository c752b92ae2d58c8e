"""The folder that a report is written to: nobody else's files are in it, and one process at a time writes there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from petl_bench.errors import UsageError
from petl_bench.machine.resources import exhausted
from petl_bench.report.kept import FOLDER
from petl_bench.report.owned import make_folder
from petl_bench.storage.files import FileError
from petl_bench.storage.locks import HeldError, file_lock
from petl_bench.storage.untrusted import UnreadableError, read_bytes

#: by which the folder of a report is known again; who writes there has its lock
MARKER = ".petl_bench_report"
#: what a report of an earlier version consists of, which has no marker
_EARLIER = frozenset(
    {FOLDER, "index.html", "leaderboard.csv", "leaderboard.md", "plots", "report.json", "runs", "tables", "wide.csv"}
)
_HEADING = b"# Leaderboard\n"


def require_own(output: Path, folders: Sequence[Path]) -> None:
    """Refuses to write a report among other files.

    Args:
        output: may be missing, empty, or hold an earlier report.
        folders: of runs. The report may lie in one of them, such as in `runs/report`, but none of them in the report.

    Raises:
        UsageError: the folder holds anything else.
        FileError: it cannot be looked into.
    """
    place = output.resolve()
    for folder in folders:
        if folder.resolve().is_relative_to(place):
            raise UsageError(f"--output {output}: the runs in {folder} would lie within the report: name a new folder")
    try:
        names = {path.name for path in output.iterdir()} if os.path.lexists(output) else set()
    except OSError as error:
        raise exhausted(error, output) or FileError(output, f"cannot be looked into: {error.strerror}") from error
    if not names or MARKER in names or names == {FOLDER} or (names <= _EARLIER and _is_board(output)):
        return
    raise UsageError(f"--output {output}: this holds files and no report of petl-bench: name a new or an empty folder")


@contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Makes the folder, marks it as a report's, and keeps other processes from writing there until the block ends.

    Raises:
        UsageError: another process writes a report there.
        FileError: it cannot be written to.
    """
    make_folder(output)
    marker = output / MARKER
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(marker))
        except HeldError as error:
            raise UsageError(f"another process writes a report into {output}: wait for it, or set --output") from error
        except OSError as error:
            raise exhausted(error, marker) or FileError(marker, f"cannot be opened: {error.strerror}") from error
        yield


def _is_board(output: Path) -> bool:
    try:
        return read_bytes(output / "leaderboard.md").startswith(_HEADING)
    except UnreadableError:
        return False
