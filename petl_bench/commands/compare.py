"""`petl-bench compare`: two runs on the same queries. Needs no torch, network, GPU or data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.storage.untrusted import expanded


def run(arguments: Sequence[str]) -> int:
    """Prints what two runs differ in, and which queries changed.

    Raises:
        UsageError: there is no such run.
        DataError: the runs are not comparable, or their queries are not the same.
        FileError: a record or ranks cannot be read, or a file not be written.
    """
    told = "runs/.../seed0, its result.json, or its ranks.npz (test.json and test_ranks.npz likewise)"
    parser = Parser(
        prog="petl-bench compare",
        description="Compares two runs query by query: paired differences (B - A) with 95 % intervals and tests, and "
        "the queries that changed.",
    )
    parser.add_argument("a", type=possible_path, metavar="RUN_A", help=told)
    parser.add_argument("b", type=possible_path, metavar="RUN_B", help="what is compared with it")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="compare the queries that both have, also where the runs are not comparable",
    )
    parser.add_argument(
        "--top",
        type=_count,
        default=10,
        metavar="N",
        help="most gained and most lost queries to show (default: %(default)s)",
    )
    parser.add_argument("--json", type=possible_path, metavar="FILE", help="write figures and all changed queries")
    parser.add_argument("--csv", type=possible_path, metavar="FILE", help="write all changed queries")
    options = parser.parse_args(arguments)
    from petl_bench.report.compare import compare, show, write_csv, write_json

    found = compare(options.a, options.b, options.anyway)
    show(found, options.top)
    for path, write in ((options.json, write_json), (options.csv, write_csv)):
        if path is not None:
            write(found, expanded(path))
            print(f"{len(found.changed)} queries that changed: {path}")
    return 0


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 on")
    return int(text)
