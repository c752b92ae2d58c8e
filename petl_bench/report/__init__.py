"""From run records to a leaderboard: a package, and `petl_bench.report(...)`."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def report(
    *folders: str | Path,
    output: str | Path = "report",
    strict: bool = False,
    publish: str | Path | None = None,
    thumbnails: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Writes the report in every format and prints the tables, as `petl-bench report` does.

    Args:
        folders: with run records, at any depth; `runs` if none is given.
        output: folder to write: missing, empty, or a report's.
        strict: reject runs of a dirty checkout.
        publish: folder to write a web site to.
        thumbnails: folder of clips that the pages show pictures of; None: they show none.

    Returns:
        The records of the runs in the tables.

    Raises:
        DataError: no folder, or no valid run in it.
        UsageError: a folder to write holds files of others, or another process writes there.
        FileError: the report cannot be written.
    """
    from petl_bench.machine.limits import explaining_machine_faults
    from petl_bench.machine.output import printable
    from petl_bench.report.leaderboard import leaderboard
    from petl_bench.storage.untrusted import expanded

    with printable(), explaining_machine_faults():
        found = leaderboard(
            [expanded(folder) for folder in folders or ("runs",)],
            expanded(output),
            strict=strict,
            publish=None if publish is None else expanded(publish),
            thumbnails=None if thumbnails is None else expanded(thumbnails),
        )
    return [run.record for run in found.runs]


class _Callable(ModuleType):
    """This module: whoever imports a part of it makes `petl_bench.report` mean it, so it can be called itself."""

    __call__ = staticmethod(report)


sys.modules[__name__].__class__ = _Callable
