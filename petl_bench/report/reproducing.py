"""The command that gives a row again, as far as its records tell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from petl_bench.report.collect import Run
from petl_bench.report.marks import training_of
from petl_bench.runs.record import ADAPTER_NAME, CONFIG_NAME

#: a bare name of a packaged configuration; a record may hold anything, and commands are copied into shells
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def command_of(runs: list[Run]) -> str:
    """A line of a shell for all seeds of a row; empty if nothing tells.

    The configuration beside a record is all of it; a record alone knows the packaged one that was named, and neither
    what was changed of it nor where the dataset lay.
    """
    first = runs[0]
    if "trained_on" in first.record["model"]:  # no file says by which name its data were given
        return ""
    if first.record["kind"] == "test":
        adapters = [run.path.with_name(ADAPTER_NAME) for run in runs]
        return "; ".join(f"petl-bench test --ckpt_path={_quoted(path)}" for path in adapters if path.is_file())
    config = first.path.with_name(CONFIG_NAME)
    if config.is_file():
        return _for_seeds(f"petl-bench fit --config={_quoted(config)} --runs_dir=again", runs)
    recipe = _recipe(first)
    return _for_seeds(f"petl-bench fit --config={recipe}", runs) if recipe else ""


def _recipe(run: Run) -> str | None:
    """The packaged configuration that a training named."""
    named = (training_of(run.record) or {}).get("recipe")
    return named["name"] if named and _NAME.fullmatch(named["name"]) else None


def _for_seeds(command: str, runs: list[Run]) -> str:
    seeds = [str(run.record["id"]["seed"]) for run in runs]
    if len(seeds) == 1:
        return f"{command} --seed_everything={seeds[0]}"
    return f"for seed in {' '.join(seeds)}; do {command} --seed_everything=$seed; done"


def _quoted(path: Path) -> str:
    return shlex.quote(path.as_posix())
