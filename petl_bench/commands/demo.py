"""`petl-bench demo`: generated clips, several methods on the small pretrained CLIP, their leaderboard, on a CPU.

Every step is a command that a user could give by hand; each is printed before it runs.
"""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.cli.rewriting import taken
from petl_bench.commands.table import run_command
from petl_bench.errors import UsageError
from petl_bench.ranges import Count, argument

#: nothing, little, a usual adapter, everything, and what is made for moving pictures
METHODS = ("zeroshot", "linear", "adaptformer", "full", "mvadapter")
_PREFIX = "fixture_"
#: the backbone of the configurations that the demo shows, whose weights are a part of the package
_BACKBONE = "backbone/clip_small.yaml"
#: fewer than the benchmark has, so that all of METHODS take minutes
_TRAIN_VIDEOS, _TEST_VIDEOS = 320, 300


@functools.cache
def available_methods() -> tuple[str, ...]:
    """What can be shown: `x` of every packaged `fixture_x.yaml` on the small CLIP."""
    found, backbone = [], composed(config_folder() / _BACKBONE)
    for path in sorted(config_folder().glob(f"{_PREFIX}*.yaml")):
        if composed(path)["model"]["init_args"]["backbone"] == backbone:
            found.append(path.stem.removeprefix(_PREFIX))
    return tuple(found)


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs `petl-bench demo`; ends with the first exit code that is not 0.

    Args:
        arguments: of the command line.
        plugins: packages that the user trusts.

    Raises:
        UsageError: a method is unknown, or the folder holds something already.
    """
    options, more = _parser().parse_known_args(arguments)
    more += [f"--plugins={plugin}" for plugin in plugins]
    if more and not more[0].startswith("--"):
        raise UsageError(f"demo takes one folder: leave out '{more[0]}'")
    _require_known(options.methods)
    folder: Path = options.folder
    _require_new(folder)
    data, runs = folder / "fixture", folder / "runs"
    size = [f"--train-videos={options.train_videos}", f"--test-videos={options.test_videos}"]
    write = ["fixture", str(data), "--layout=diagnostic", *size]
    given = [f"--data.root={data}", f"--runs_dir={runs}", *more]
    fits = [["fit", f"--config={_PREFIX}{method}", *given] for method in options.methods]
    report = ["report", str(runs), f"--output={folder / 'report'}", f"--thumbnails={data}"]
    return _all([write, *fits, report])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="petl-bench demo",
        usage="petl-bench demo [FOLDER] [--methods NAME ...] [--train-videos N] [--test-videos N] "
        "[any option of `petl-bench fit`]",
        description="Generates clips, adapts the small CLIP of the package to them by several methods on the CPU and "
        "prints the leaderboard: minutes, without a dataset, a download or a GPU.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        type=possible_path,
        nargs="?",
        default=Path("demo"),
        metavar="FOLDER",
        help="folder to create; may exist only if empty (default: demo, where the configurations fixture_* look)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="NAME",
        help=f"of {', '.join(available_methods())} (default: {' '.join(METHODS)})",
    )
    for option, count, what in (
        ("--train-videos", _TRAIN_VIDEOS, "training clips"),
        ("--test-videos", _TEST_VIDEOS, "test clips"),
    ):
        parser.add_argument(
            option, type=argument(Count), default=count, metavar="N", help=f"{what} to generate (default: %(default)s)"
        )
    return parser


def _require_known(methods: Sequence[str]) -> None:
    known = available_methods()
    for method in methods:
        if method not in known:
            close = get_close_matches(method, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose of {', '.join(known)}"
            raise UsageError(f"--methods: the demo has no method '{method}': {hint}")


def _require_new(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} holds something already: remove it, or give another folder")


def _all(commands: Sequence[list[str]]) -> int:
    """Runs commands of petl-bench until one fails; its exit code."""
    for arguments in commands:
        print(f"\n$ petl-bench {shlex.join(arguments)}", flush=True)
        (name, *rest), plugins = taken(arguments)
        if code := run_command(name, rest, plugins):
            return code
    return 0
