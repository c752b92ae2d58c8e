"""The leaderboard of the runs below some folders: collected, written in every format, printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petl_bench.errors import DataError
from petl_bench.report.collect import HOW_TO_GET_RUNS, Collection, collect
from petl_bench.report.document import render_document
from petl_bench.report.latex import render_table
from petl_bench.report.markdown import render_markdown
from petl_bench.report.model import Report
from petl_bench.report.reproduction import with_published
from petl_bench.report.sheets import render_tidy, render_wide
from petl_bench.report.summary import summarise_tables
from petl_bench.report.tables import build_tables
from petl_bench.report.terminal import print_rejected, print_tables
from petl_bench.storage.files import FileError, write_atomically


def leaderboard(folders: Sequence[Path], output: Path, strict: bool = False) -> Collection:
    """Writes the report in every format, and prints the tables.

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
        rejected = f" ({len(found.rejected)} rejected)" if found.rejected else ""
        raise DataError(f"no valid run below {names}{rejected}. {HOW_TO_GET_RUNS}")

    report = build_report(found)
    for name, text in rendered(report).items():
        _write(output / name, text)
    print_tables(report.tables)
    print_rejected(found.rejected)
    return found


def build_report(found: Collection) -> Report:
    """What is shown of some runs, by every format."""
    tables = build_tables(found.runs)
    # Statistics go in here: `tables = with_statistics(tables, ...)`, before what they decide.
    tables, figures = with_published(tables)
    return Report(tables, summarise_tables(tables), found.rejected, figures)


def rendered(report: Report) -> dict[str, str]:
    """Every text file of a report, by its path in the folder."""
    return {
        "leaderboard.md": render_markdown(report),
        "leaderboard.csv": render_tidy(report.tables),
        "wide.csv": render_wide(report.tables),
        "report.json": render_document(report),
        **{f"tables/{table.id}.tex": render_table(table) for table in report.tables},
    }


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(path.parent, f"cannot be created: {error.strerror}") from error
    write_atomically(path, text)
