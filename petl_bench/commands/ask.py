"""`petl-bench ask`: a question about one video, to a trained adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, add_model_arguments, possible_path
from petl_bench.machine.output import print_table
from petl_bench.ranges import Count, NonNegativeCount, argument


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Prints the best answers, with their scores.

    Raises:
        CheckpointError: the adapter or the weights of its backbone are missing or damaged.
        DataError: the video cannot be read, or ends before the moment begins.
        UsageError: the adapter answers no questions, or cannot choose from options.
    """
    options = _parser().parse_args(arguments)
    from petl_bench.loading import load

    model = load(options.adapter, options.weights, options.device, plugins)
    video = (options.video, options.start, options.end)
    found = model.ask(video, options.question, options.option, options.top_k)
    if options.json:
        answers = [{"answer": answer.text, "score": answer.score} for answer in found.answers]
        print(json.dumps({"question": options.question, "scored_by": found.scored_by, "answers": answers}, indent=2))
        return 0
    rows = [(answer.text, f"{answer.score:.4f}") for answer in found.answers]
    print_table(options.question, ("answer", found.scored_by), rows, left=1)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench ask",
        description="Answers a question about a video. An adapter trained on questions writes the answer or takes it "
        "from its list; with --option, one of retrieval or of multiple choice says which of them fits best.",
        allow_abbrev=False,
    )
    parser.add_argument("question", nargs="?", default="", help="may be left out where options are captions")
    add_model_arguments(parser)
    parser.add_argument("--video", required=True, type=possible_path, metavar="FILE", help="the video")
    parser.add_argument("--start", type=argument(NonNegativeCount), metavar="SECOND", help="only from there on")
    parser.add_argument("--end", type=argument(Count), metavar="SECOND", help="only up to there")
    parser.add_argument(
        "--option", action="append", default=[], metavar="TEXT", help="an answer to choose from; give several"
    )
    parser.add_argument("--top-k", type=argument(Count), default=5, metavar="K", help="the most answers (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
