"""`petl-bench report`: from run records to a leaderboard. Needs no torch, network or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.errors import DataError


def run(arguments: Sequence[str]) -> int:
    """Writes the report in every format, and prints the tables.

    Returns:
        The exit code: 0, or 4 with `--strict` when a run was rejected.

    Raises:
        DataError: no folder, or no valid run in it.
        UsageError: a folder to write holds files of others, or another process writes there.
        FileError: the report cannot be written.
    """
    parser = Parser(
        prog="petl-bench report",
        description="Collects runs into a leaderboard: a web page, plots, Markdown, CSV, LaTeX and JSON in one folder.",
    )
    parser.add_argument(
        "runs", nargs="*", type=possible_path, default=[Path("runs")], help="folders with run records (default: runs)"
    )
    parser.add_argument(
        "--output",
        type=possible_path,
        default=Path("report"),
        help="folder to write: new, empty, or a report's (default: report)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="reject runs of a dirty checkout; exit 4 if any run is rejected"
    )
    parser.add_argument(
        "--publish",
        type=possible_path,
        metavar="DIR",
        help="write a static web site, too, without paths of this machine",
    )
    parser.add_argument(
        "--thumbnails",
        type=possible_path,
        metavar="DIR",
        help="folder of clips by their ids, or of the data: pages show pictures of the hardest queries (default: none)",
    )
    options = parser.parse_args(arguments)
    from petl_bench.report.leaderboard import leaderboard

    found = leaderboard(
        options.runs, options.output, strict=options.strict, publish=options.publish, thumbnails=options.thumbnails
    )
    return DataError.exit_code if options.strict and found.rejected else 0
