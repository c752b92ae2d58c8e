"""Records the figures of all recipes anew (`make regression-record`), once a change that is to move them is committed.

What is trained, and how tolerances follow, stands in `tests.regression.figures`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from petl_bench.runs.environment import environment
from tests.regression.figures import ARITHMETIC, FILE, SEEDS, tolerance
from tests.regression.training import Figures, recipes
from tests.shared import REPOSITORY

#: seed 0, one thread
_STANDARD = "one thread"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def record(jobs: int = 2) -> None:
    """Trains every recipe under all conditions, and writes the figures with the commit and the machine that gave them.

    Args:
        jobs: processes at a time.

    Raises:
        SystemExit: the code is not that of a commit.
    """
    code = _code()
    conditions: dict[str, tuple[dict[str, str], int]] = {
        _STANDARD: (_ONE_THREAD, 0),
        **{name: (_ONE_THREAD | variables, 0) for name, variables in ARITHMETIC.items()},
        **{f"seed {seed}": (_ONE_THREAD, seed) for seed in SEEDS},
    }
    with tempfile.TemporaryDirectory(prefix="regression_") as folder, ThreadPoolExecutor(jobs) as pool:
        places = {name: Path(folder) / name.replace(" ", "_") for name in conditions}
        waiting = {name: pool.submit(_train_all, places[name], *conditions[name]) for name in conditions}
        found = {name: future.result() for name, future in waiting.items()}
    if _code() != code:
        raise SystemExit("the code changed while figures were recorded: do it again")
    _write({"recorded": code, "recipes": {recipe: _of(recipe, found) for recipe in found[_STANDARD]}})


def _code() -> dict[str, Any]:
    """Commit, versions and machine.

    Raises:
        SystemExit: the code is not that of a commit.
    """
    found = environment()
    status = ["git", "-C", str(REPOSITORY), "status", "--porcelain"]
    dirty = subprocess.run(status, capture_output=True, text=True, check=False).stdout.strip()
    if found["commit"] is None or found["dirty"] or dirty:
        raise SystemExit("figures are recorded for a commit: commit your changes first, then add figures.json to them")
    return {key: found[key] for key in ("commit", "python", "platform", "cpu", "versions")}


def _train_all(folder: Path, variables: dict[str, str], seed: int) -> dict[str, Figures]:
    """Figures of all recipes from a process of its own: these variables are read when torch is imported."""
    folder.mkdir()
    out = folder / "figures.json"
    command = [sys.executable, "-m", "tests.regression.record", str(folder), str(seed), str(out)]
    subprocess.run(command, env=os.environ | variables, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def _train_here(folder: Path, seed: int, out: Path) -> None:
    from tests.regression.clips import write_clips
    from tests.regression.training import train

    write_clips(folder / "clips")
    found = {recipe: train(recipe, folder / "clips", folder / "run", seed) for recipe in recipes()}
    out.write_text(json.dumps(found), encoding="utf-8")


def _of(recipe: str, found: dict[str, dict[str, Figures]]) -> dict[str, Any]:
    """The figures of a recipe with their spreads."""
    return {name: _figure(name, recipe, found) for name in found[_STANDARD][recipe]}


def _figure(name: str, recipe: str, found: dict[str, dict[str, Figures]]) -> dict[str, float | None]:
    value = found[_STANDARD][recipe][name]
    arithmetic = max(abs(found[condition][recipe][name] - value) for condition in ARITHMETIC)
    seeds = statistics.stdev([value, *(found[f"seed {seed}"][recipe][name] for seed in SEEDS)])
    allowed = tolerance(name, value, arithmetic, seeds)
    spread = {"arithmetic": _rounded(arithmetic, 2), "seeds": _rounded(seeds, 2)}
    return {"value": _rounded(value, 7), **spread, "tolerance": None if allowed is None else _rounded(allowed, 2)}


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _write(content: dict[str, Any]) -> None:
    """One figure to a line, so that a change shows what moved."""
    recipes = ",\n".join(
        f"  {json.dumps(recipe)}: {{\n"
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(figure)}" for name, figure in of.items())
        + "\n  }"
        for recipe, of in content["recipes"].items()
    )
    recorded = json.dumps(content["recorded"])
    FILE.write_text(f'{{\n "recorded": {recorded},\n "recipes": {{\n{recipes}\n }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        record()
    else:
        _train_here(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
