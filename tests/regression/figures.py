"""The recorded figures (`figures.json`), and what counts as another figure.

How tolerances were measured: `tests.regression.record` trains every recipe with seed 0 on one thread. It does so again
under other arithmetic, which sums the same numbers in another order (`ARITHMETIC`: two threads; vector instructions of
older processors), and with other seeds (`SEEDS`). The largest distance under other arithmetic is what may come of
rounding alone; the standard deviation over seeds is what a figure is worth.

A figure may be off by `MARGIN` times that distance, but at least by `FLOOR` of itself (`FEWEST` of what is counted),
since processors and versions of libraries that nobody measured round otherwise, too. Where `MARGIN` times the distance
is more than `SHARE` of the deviation over seeds, a figure tells nothing and is not compared; where a seed changes
nothing, it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.regression.clips import QUESTIONS, TESTED_WITH

FILE = Path(__file__).with_name("figures.json")

#: environment by what it changes about arithmetic
ARITHMETIC: dict[str, dict[str, str]] = {
    "two threads": {"OMP_NUM_THREADS": "2"},
    "no vectors": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
}
SEEDS = (1, 2)

#: counted, and the same everywhere
EXACT = ("trained parameters", "tensors that moved")
MARGIN = 5
FLOOR = 5e-4
FEWEST = 2
SHARE = 0.5


@dataclass(frozen=True)
class Recorded:
    """A figure as it was recorded.

    Attributes:
        value: with seed 0 on one thread.
        arithmetic: largest distance from it under other arithmetic.
        seeds: standard deviation over seeds.
        tolerance: how far off it may be; None where it is not compared.
    """

    value: float
    arithmetic: float
    seeds: float
    tolerance: float | None


def tolerance(name: str, value: float, arithmetic: float, seeds: float) -> float | None:
    """How far a figure may be off, by the rule above; None where that is too much to tell anything."""
    if name in EXACT:
        return 0.0
    rounding = MARGIN * arithmetic
    return None if seeds and rounding > SHARE * seeds else max(rounding, _floor(name, value))


def _floor(name: str, value: float) -> float:
    if name == "accuracy":
        return 100 * FEWEST / (TESTED_WITH * QUESTIONS)
    if name.endswith(("R1", "R5")):
        return 100 * FEWEST / TESTED_WITH
    if name.endswith("MnR"):
        return FEWEST / TESTED_WITH
    return FLOOR * max(1.0, abs(value))


def read() -> dict[str, Any]:
    """What is in the file of each recipe: `recorded` (commit, versions, machine) and `figures`; nothing before any."""
    if not FILE.is_file():
        return {}
    return json.loads(FILE.read_text(encoding="utf-8"))


def recorded() -> dict[str, dict[str, Recorded]]:
    """The figures of each recipe by name."""
    return {
        recipe: {name: Recorded(**figure) for name, figure in of["figures"].items()} for recipe, of in read().items()
    }


def differences(found: Mapping[str, float], expected: Mapping[str, Recorded]) -> list[str]:
    """Figures that are further off than they may be, in words."""
    told = [f"{name} is new" for name in sorted(found.keys() - expected.keys())]
    for name, figure in expected.items():
        if name not in found:
            told.append(f"{name} is missing")
        elif figure.tolerance is not None and not abs(found[name] - figure.value) <= figure.tolerance:
            told.append(f"{name} is {found[name]:.6g}, recorded {figure.value:.6g} +- {figure.tolerance:.2g}")
    return told
