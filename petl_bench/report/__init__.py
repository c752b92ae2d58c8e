"""From run records to a leaderboard: a package, and `petl_bench.report(...)`."""

import sys
from pathlib import Path
from types import ModuleType


class _Callable(ModuleType):
    """This module: whoever imports a part of it makes `petl_bench.report` mean it, so it is the function, too."""

    def __call__(self, *folders: str | Path, output: str | Path = "report", strict: bool = False) -> list[dict]:
        """As `petl-bench report`: writes `leaderboard.md` and `leaderboard.csv`, and prints the tables.

        Args:
            folders: with run records, at any depth; `runs` if none is given.
            output: folder to write.
            strict: reject runs of a dirty checkout.

        Returns:
            The records of the runs in the tables.

        Raises:
            DataError: no folder, or no valid run in it.
            FileError: the report cannot be written.
        """
        from petl_bench.report.leaderboard import leaderboard

        found = leaderboard([Path(folder) for folder in folders or ("runs",)], Path(output), strict=strict)
        return [run.record for run in found.runs]


sys.modules[__name__].__class__ = _Callable
