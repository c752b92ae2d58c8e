"""`petl-bench report`: from run records to a leaderboard. Needs no torch, network or GPU."""

import argparse
from pathlib import Path

from petl_bench.cli.arguments import possible_path
from petl_bench.errors import DataError
from petl_bench.storage.files import FileError, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `petl-bench report`."""
    parser.add_argument(
        "runs", nargs="*", type=possible_path, default=[Path("runs")], help="folders with run records (default: runs)"
    )
    parser.add_argument(
        "--output", type=possible_path, default=Path("report"), help="folder to write (default: report)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="reject runs of a dirty checkout; exit 1 if any run is rejected"
    )


def run(args: argparse.Namespace) -> int:
    """Write `leaderboard.md` and `leaderboard.csv`, and print the tables.

    Returns:
        The exit code: 0, or 1 with `--strict` when a run was rejected.

    Raises:
        DataError: No folder, or no valid run in it.
        FileError: The report cannot be written.
    """
    from petl_bench.report import render
    from petl_bench.report.collect import collect
    from petl_bench.report.tables import build_tables

    runs, rejected = collect(args.runs, strict=args.strict)
    if not runs:
        render.print_rejected(rejected)
        folders = ", ".join(str(folder) for folder in args.runs)
        raise DataError(f"no valid run below {folders} ({len(rejected)} rejected); nothing to report")

    tables = build_tables(runs)
    markdown, table = render.render_markdown(tables, rejected), render.render_csv(tables)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(args.output, f"cannot be created: {error.strerror}") from error
    write_atomically(args.output / "leaderboard.md", markdown)
    write_atomically(args.output / "leaderboard.csv", table)
    render.print_tables(tables)
    render.print_rejected(rejected)
    return 1 if args.strict and rejected else 0
