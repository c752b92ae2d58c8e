"""`petl-bench fixture`: small generated datasets in the layouts of real ones; nothing is downloaded."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.errors import UsageError
from petl_bench.fixture import WRITERS
from petl_bench.ranges import Count, Positive, Seed, Size, argument


def run(arguments: Sequence[str]) -> int:
    """Runs `petl-bench fixture` and prints one line about what was written.

    Raises:
        UsageError: the layout has no such option, or its writer refuses the arguments.
    """
    given = vars(_parser().parse_args(arguments))
    folder, layout = given.pop("folder"), given.pop("layout")
    writer = WRITERS[layout]
    for name in given.keys() - inspect.signature(writer).parameters.keys():
        raise UsageError(f"{_flag(name)}: layout {layout} has no such option; leave it out")
    summary = writer(folder, **given)
    print(
        f"wrote {summary.train_videos} training and {summary.test_videos} test videos"
        f" with {summary.captions} captions to {summary.folder}"
    )
    return 0


def _parser() -> Parser:
    """Defaults are those of the layout's writer."""
    parser = Parser(
        prog="petl-bench fixture", description="Writes a small generated dataset in the layout of a real one."
    )
    parser.add_argument("folder", type=possible_path, metavar="DIR", help="folder to create; may exist only if empty")
    parser.add_argument(
        "--layout", choices=list(WRITERS), default="msrvtt", help="what to write (default: %(default)s)"
    )
    _add_option(parser, "seed", Seed, "determines everything")
    _add_option(parser, "train_videos", Count, "training clips")
    _add_option(parser, "test_videos", Count, "test clips")
    _add_option(parser, "captions_per_video", Count, "captions of a clip")
    _add_option(parser, "size", Size, "height and width in pixels")
    _add_option(parser, "seconds", Positive, "length of a clip")
    _add_option(parser, "fps", Size, "frames per second")
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, kind: type, meaning: str) -> None:
    """Declares an option that is left out of the parsed arguments unless given."""
    layouts_by_default: dict[object, list[str]] = {}
    for layout, writer in WRITERS.items():
        known = inspect.signature(writer).parameters
        if name in known:
            layouts_by_default.setdefault(known[name].default, []).append(layout)
    usual = max(layouts_by_default, key=lambda default: len(layouts_by_default[default]))
    others = [f"{layout} {value}" for value, own in layouts_by_default.items() if value != usual for layout in own]
    defaults = ", ".join([str(usual), *others])
    parser.add_argument(
        _flag(name), type=argument(kind), default=argparse.SUPPRESS, help=f"{meaning} (default: {defaults})"
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
