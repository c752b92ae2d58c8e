"""`petl-bench demo`: generated clips, a small pretrained CLIP, several methods, and their leaderboard, on a CPU.

Every step is a command that a user could give by hand; each is printed before it runs.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.cli.rewriting import taken
from petl_bench.commands.table import run_command
from petl_bench.errors import UsageError

#: nothing, little, a usual adapter, everything, and what is made for moving pictures
METHODS = ("zeroshot", "linear", "adaptformer", "full", "mvadapter")
_PREFIX = "fixture_"
#: the backbone of the configurations that take the weights which the demo pretrains
_BACKBONE = "backbone/clip_tiny_shapes.yaml"


@functools.cache
def available_methods() -> tuple[str, ...]:
    """What can be shown: `x` of every packaged `fixture_x.yaml` on the CLIP that the demo pretrains."""
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
        UsageError: a method is unknown, the folder holds something already, or options of `fit` keep the pretraining
            from writing its weights there.
    """
    options, more = _parser().parse_known_args(arguments)
    more += [f"--plugins={plugin}" for plugin in plugins]
    if more and not more[0].startswith("--"):
        raise UsageError(f"demo takes one folder: leave out '{more[0]}'")
    _require_known(options.methods)
    folder: Path = options.folder
    _require_new(folder)
    data, stills, weights = folder / "fixture", folder / "stills", folder / "tiny_clip.safetensors"
    pretrain = ["fit", "--config=fixture_pretrain", f"--data.root={stills}", f"--runs_dir={folder / 'pretrain'}", *more]
    if code := _all([["fixture", str(data)], ["fixture", str(stills), "--layout=stills"], pretrain]):
        return code
    shutil.copyfile(_only_adapter(folder / "pretrain", more), weights)

    given = [f"--data.root={data}", f"--model.backbone.pretrained={weights}", f"--runs_dir={folder / 'runs'}", *more]
    fits = [["fit", f"--config={_PREFIX}{method}", *given] for method in options.methods]
    report = ["report", str(folder / "runs"), f"--output={folder / 'report'}", f"--thumbnails={data}"]
    return _all([*fits, report])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="petl-bench demo",
        usage="petl-bench demo [FOLDER] [--methods NAME ...] [any option of `petl-bench fit`]",
        description="Generates clips, pretrains a small CLIP on stills, adapts it by several methods on the CPU and "
        "prints the leaderboard: minutes, without a dataset, weights or a GPU.",
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


def _only_adapter(runs: Path, more: Sequence[str]) -> Path:
    found = list(runs.rglob("adapter.safetensors"))
    if len(found) == 1:
        return found[0]
    raise UsageError(f"the pretraining left {len(found)} adapters below {runs}: leave out {shlex.join(more)}")


def _all(commands: Sequence[list[str]]) -> int:
    """Runs commands of petl-bench until one fails; its exit code."""
    for arguments in commands:
        print(f"\n$ petl-bench {shlex.join(arguments)}", flush=True)
        (name, *rest), plugins = taken(arguments)
        if code := run_command(name, rest, plugins):
            return code
    return 0
