"""Records the figures of all recipes anew (`make regression-record`), once a change that is to move them is committed.

`python -m tests.regression.record RECIPE ...` does some of them, and the others stay as they are. How tolerances follow
stands in `tests.regression.figures`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from petl_bench.runs.environment import environment
from tests.regression.clips import write_clips
from tests.regression.figures import ARITHMETIC, FILE, SEEDS, read, tolerance
from tests.regression.training import Figures, recipes, train
from tests.shared import REPOSITORY

#: arithmetic
_STANDARD = "one thread"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
#: below the folder of all processes
_CLIPS = "clips"
#: as first argument: this process trains under one condition
_WORKER = "--worker"


def record(names: Sequence[str] = (), jobs: int = 2) -> None:
    """Trains recipes under all conditions, and writes the figures with the commit and the machine that gave them.

    Args:
        names: of the recipes; none stands for all.
        jobs: processes at a time.

    Raises:
        SystemExit: the code is not that of a commit, or there is no such recipe.
    """
    if unknown := set(names) - set(recipes()):
        raise SystemExit(f"{', '.join(sorted(unknown))}: no recipe; there are {', '.join(recipes())}")
    code, names = _code(), names or recipes()
    arithmetic: dict[str, dict[str, str]] = {_STANDARD: {}, **ARITHMETIC}
    with tempfile.TemporaryDirectory(prefix="regression_") as given, ThreadPoolExecutor(jobs) as pool:
        folder = Path(given)
        write_clips(folder / _CLIPS)
        waiting = {
            name: pool.submit(_train_all, names, folder, variables, (0, *SEEDS) if name == _STANDARD else (0,))
            for name, variables in arithmetic.items()
        }
        found = {name: future.result() for name, future in waiting.items()}
    if _code() != code:
        raise SystemExit("the code changed while figures were recorded: do it again")
    kept = read()
    new = {recipe: {"recorded": code, "figures": _of(recipe, found)} for recipe in names}
    _write({recipe: (kept | new)[recipe] for recipe in recipes() if recipe in kept | new})


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


def _train_all(
    names: Sequence[str], folder: Path, variables: dict[str, str], seeds: Sequence[int]
) -> list[dict[str, Figures]]:
    """Figures of these recipes by seed, from a process of its own: the variables are read when torch is imported."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "tests.regression.record", _WORKER, str(folder), str(out)]
    command += [",".join(map(str, seeds)), *names]
    environ = os.environ | _ONE_THREAD | variables
    subprocess.run(command, env=environ, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / FILE.name).read_text(encoding="utf-8"))


def _train_here(folder: Path, out: Path, seeds: str, *names: str) -> None:
    found = [
        {recipe: train(recipe, folder / _CLIPS, out / "run", int(seed)) for recipe in names}
        for seed in seeds.split(",")
    ]
    (out / FILE.name).write_text(json.dumps(found), encoding="utf-8")


def _of(recipe: str, found: dict[str, list[dict[str, Figures]]]) -> dict[str, Any]:
    """The figures of a recipe with their spreads."""
    return {name: _figure(name, recipe, found) for name in found[_STANDARD][0][recipe]}


def _figure(name: str, recipe: str, found: dict[str, list[dict[str, Figures]]]) -> dict[str, float | None]:
    by_seed = [of[recipe][name] for of in found[_STANDARD]]
    value = by_seed[0]
    arithmetic = _rounded(max(abs(found[other][0][recipe][name] - value) for other in ARITHMETIC), 2)
    seeds = _rounded(statistics.stdev(by_seed), 2)
    allowed = tolerance(name, value, arithmetic, seeds)
    told = {"value": _rounded(value, 7), "arithmetic": arithmetic, "seeds": seeds}
    return told | {"tolerance": None if allowed is None else _rounded(allowed, 2)}


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _write(content: dict[str, dict[str, Any]]) -> None:
    """One figure to a line, so that a change shows what moved."""
    FILE.write_text("{\n" + ",\n".join(_recipe(name, of) for name, of in content.items()) + "\n}\n", encoding="utf-8")


def _recipe(name: str, of: dict[str, Any]) -> str:
    figures = ",\n".join(f"   {json.dumps(figure)}: {json.dumps(spread)}" for figure, spread in of["figures"].items())
    return (
        f' {json.dumps(name)}: {{\n  "recorded": {json.dumps(of["recorded"])},\n  "figures": {{\n{figures}\n  }}\n }}'
    )


if __name__ == "__main__":
    if sys.argv[1:2] == [_WORKER]:
        _train_here(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
    else:
        record(sys.argv[1:])
