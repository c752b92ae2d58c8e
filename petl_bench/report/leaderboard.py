"""The leaderboard of the runs below some folders: collected, written in every format, printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petl_bench.errors import DataError
from petl_bench.report.collect import Collection, collect
from petl_bench.report.markdown import render_markdown
from petl_bench.report.model import Report
from petl_bench.report.sheets import render_tidy
from petl_bench.report.tables import build_tables
from petl_bench.report.terminal import print_rejected, print_tables
from petl_bench.storage.files import FileError, write_atomically


def leaderboard(folders: Sequence[Path], output: Path, strict: bool = False) -> Collection:
    """Writes `leaderboard.md` and `leaderboard.csv`, and prints the tables.

    Args:
        folders: with run records, at any depth.
        output: folder to write; created if it is not there.
        strict: reject runs of a dirty checkout.

    Returns:
        The runs in the tables, and what was left out and why.

    Raises:
        DataError: no folder, or no valid run in it.
        FileError: the report cannot be written.
    """
    found = collect(folders, strict=strict)
    if not found.runs:
        print_rejected(found.rejected)
        names = ", ".join(str(folder) for folder in folders)
        raise DataError(f"no valid run below {names} ({len(found.rejected)} rejected); nothing to report")

    report = build_report(found)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(output, f"cannot be created: {error.strerror}") from error
    for name, text in rendered(report).items():
        write_atomically(output / name, text)
    print_tables(report.tables)
    print_rejected(found.rejected)
    return found


def rendered(report: Report) -> dict[str, str]:
    """Every file of a report by its path in the folder."""
    return {"leaderboard.md": render_markdown(report), "leaderboard.csv": render_tidy(report.tables)}


def build_report(found: Collection) -> Report:
    """What is shown of some runs, by every format."""
    tables = build_tables(found.runs)
    return Report(tables, [], found.rejected)
