"""The leaderboard of the runs below some folders: collected, written as Markdown and CSV, printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petl_bench.errors import DataError
from petl_bench.report import render
from petl_bench.report.collect import Collection, collect
from petl_bench.report.kept import FOLDER
from petl_bench.report.tables import build_tables
from petl_bench.report.verification import verified
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
    cache = output / FOLDER
    found = verified(collect(folders, strict, cache), cache)
    if not found.runs:
        render.print_rejected(found.rejected)
        names = ", ".join(str(folder) for folder in folders)
        raise DataError(f"no valid run below {names} ({len(found.rejected)} rejected); nothing to report")

    tables = build_tables(found.runs)
    markdown, table = render.render_markdown(tables, found.rejected), render.render_csv(tables)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(output, f"cannot be created: {error.strerror}") from error
    write_atomically(output / "leaderboard.md", markdown)
    write_atomically(output / "leaderboard.csv", table)
    render.print_tables(tables)
    render.print_rejected(found.rejected)
    return found
