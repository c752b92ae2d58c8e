"""What all measurements share: sides that take turns, medians with their noise, a table with JSON beside it."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal, NamedTuple, TypeVar

import torch

#: of the checkout
ROOT = Path(__file__).resolve().parents[2]

Name = TypeVar("Name", bound=Hashable)
Side = Callable[[], float]
"""Takes one turn, and gives its cost: seconds of CPU, of one step, clip or evaluation."""


class Measured(NamedTuple):
    """A figure with its noise: the median over rounds, and half of their interquartile range."""

    value: float
    noise: float


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: is measured, in words.
        goal: what it should be.
        better: whether less or more is better.
        measured: None where it was left out.
        how: the figures that it was worked out from; why it was left out.
    """

    what: str
    goal: float
    better: Literal["less", "more"]
    measured: Measured | None
    how: str

    @property
    def met(self) -> bool | None:
        """Whether the goal is met, noise left aside; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured.value <= self.goal if self.better == "less" else self.measured.value >= self.goal

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        sign = "<=" if self.better == "less" else ">="
        goal = f"{sign} {self.goal:g}"
        if self.measured is None:
            return [self.what, goal, "-", "-", "-", self.how]
        value, noise = self.measured
        return [self.what, goal, f"{value:.3g}", f"{noise:.1g}", "yes" if self.met else "NO", self.how]


def left_out(what: str, goal: float, better: Literal["less", "more"], why: str) -> Row:
    """A row of what cannot be measured here."""
    return Row(what, goal, better, None, why)


def interleave(sides: Mapping[Name, Side], rounds: int) -> dict[Name, list[float]]:
    """Costs of all turns by side. Each round begins with another side; a first round warms up and does not count."""
    names, costs = list(sides), {name: list[float]() for name in sides}
    for number in range(1 + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            cost = sides[name]()
            if number:
                costs[name].append(cost)
    return costs


def summary(values: Sequence[float]) -> Measured:
    """The median, and half of the interquartile range; the noise of a single value is unknown, hence nan."""
    if len(values) < 2:
        return Measured(values[0], math.nan)
    low, _, high = quantiles(values, method="inclusive")
    return Measured(median(values), (high - low) / 2)


def ratio(costs: Sequence[float], anchor: Sequence[float], factor: float = 1.0) -> Measured:
    """The ratios of the rounds, which other work of the machine moves less than the ratio of the medians."""
    return summary([factor * mine / theirs for mine, theirs in zip(costs, anchor, strict=True)])


def exponent(sizes: Sequence[float], costs: Sequence[Sequence[float]]) -> Measured:
    """Of the power law through the costs of one round at all sizes, by least squares.

    Args:
        sizes: of what grows.
        costs: of each size, one for each round.
    """
    return summary([_slope([*map(math.log, sizes)], [*map(math.log, turn)]) for turn in zip(*costs, strict=True)])


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    moves = [value - middle_x for value in x]
    return sum(move * (value - middle_y) for move, value in zip(moves, y, strict=True)) / sum(m * m for m in moves)


def cpu_seconds(work: Callable[[], Any], times: int = 1) -> float:
    """What a piece of work takes of this process's CPU time, per time that it is done."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def show(rows: Sequence[Row]) -> None:
    """Prints the table."""
    lines = [["what", "goal", "measured", "noise", "met", "how"], *(row.cells for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(5)]
    for *cells, how in lines:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), how]), flush=True)


def write(path: Path, rows: Mapping[str, Sequence[Row]], surroundings: Mapping[str, Any]) -> None:
    """Writes rows by measurement; what is in the file of other measurements stays, each with its own surroundings."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, found in rows.items():
        kept[name] = {"rows": [_plain(row) for row in found], **surroundings}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _plain(row: Row) -> dict[str, Any]:
    value, noise = row.measured or (None, None)
    noise = None if noise is None or math.isnan(noise) else noise
    said = {"what": row.what, "goal": row.goal, "better": row.better, "how": row.how, "met": row.met}
    return said | {"measured": value, "noise": noise}


def surroundings() -> dict[str, Any]:
    """Where and when something is measured: processor, load, versions, commit (`+` where files were changed)."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str | None:
    """The commit of this checkout; None where git does not tell."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
