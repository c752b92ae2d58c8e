"""`petl-bench search`: windows of videos that a text describes, or that are like a clip."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, add_model_arguments, possible_path
from petl_bench.errors import DataError, UsageError
from petl_bench.machine.output import print_table
from petl_bench.ranges import Count, NonNegativeCount, argument
from petl_bench.storage.untrusted import is_file


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Prints what is most like the query; brings the index up to date before.

    Raises:
        CheckpointError: the adapter or its weights are missing or damaged, or the index cannot be read or written.
        DataError: there is no video, or the query is one that cannot be read.
        UsageError: there is no query, or the index is another one's.
    """
    options = _parser().parse_args(arguments)
    if (not options.query.strip()) == (options.like is None):
        raise UsageError("give a query: a text, or a clip or a picture with --like FILE, and not both")
    if not options.query.isascii() and options.query != options.query.encode(errors="replace").decode():
        raise UsageError("the query is not UTF-8")
    if options.like is not None and not is_file(options.like):
        raise DataError(f"--like {options.like}: no such file")
    from petl_bench.search.session import VideoSearch, as_json, inert
    from petl_bench.search.sheet import clock, write_sheet

    where = (options.adapter, options.videos, options.window, options.index, options.weights, options.device, plugins)
    found = VideoSearch(*where, workers=options.workers).open(not options.no_update, options.retry)
    if found.skipped:
        told = f"{len(found.skipped)} of {len(found.stamps)} files could not be read (to their end)"
        print(f"{told}; --retry reads them again", file=sys.stderr)
    query = options.query or str(options.like)
    if options.like is None:
        hits = found.of_text(query, options.top_k, not options.one_stage)
    else:
        hits = found.of_clip(options.like, options.top_k)
    if options.html:
        write_sheet(options.html, query, found, hits)
    if options.json:
        print(json.dumps(as_json(query, found, hits), indent=2))
        return 0
    rows = [
        (inert(hit.place.file.path), *map(clock, hit.place.span), f"{hit.score:.4f}", f"{hit.rank}") for hit in hits
    ]
    title = f"{query[:100]}, in {found.windows} windows"
    print_table(title, ("video", "from", "to", "score", "rank"), rows, left=1)
    if options.html:
        print(f"sheet: {options.html}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench search",
        description="Finds what a text describes in a folder of videos, or what is like a clip. The first search makes "
        "an index of the folder, later ones read what is new in it.",
        allow_abbrev=False,
    )
    parser.add_argument("query", nargs="?", default="", help="what happens in the video")
    parser.add_argument("--like", type=possible_path, metavar="FILE", help="a clip or a picture in place of a text")
    add_model_arguments(parser)
    parser.add_argument("--videos", required=True, type=possible_path, metavar="DIR", help="folder, with all below it")
    parser.add_argument(
        "--window", type=argument(Count), metavar="SECONDS", help="search in windows of so many seconds (whole files)"
    )
    parser.add_argument("--top-k", type=argument(Count), default=10, metavar="K", help="the most hits (%(default)s)")
    parser.add_argument(
        "--one-stage", action="store_true", help="rank by the cosine alone, where the adapter matches texts with clips"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=possible_path, metavar="FILE", help="write a page with pictures, too")
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="of the index (below --videos, in .petl_bench); NAME.lance or s3://... for LanceDB (extra lance)",
    )
    parser.add_argument("--no-update", action="store_true", help="search what is in the index, read nothing new")
    parser.add_argument("--retry", action="store_true", help="read files again that could not be read")
    parser.add_argument(
        "--workers", type=argument(NonNegativeCount), default=2, metavar="N", help="processes that decode (%(default)s)"
    )
    return parser
