"""What stands around training: the report of many runs, the second time, and `data describe` of many captions.

Each is a command in a process of its own; seconds are those of the processor, less those of the same command on next to
nothing, which are imports. Runs and captions are those of `benchmarks.report_scale` and `benchmarks.describe_scale`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import describe_scale, report_scale
from benchmarks.perf.rounds import ROOT, Row, exponent, interleave, left_out, ratio, summary
from benchmarks.perf.steps import Sizes

_SLACK = 0.05
#: turns at most: one takes up to a minute
_ROUNDS = 2
Make = Callable[[Path, int], object]
Seconds = Callable[[Path, Path], float]
"""Checkout, what was made -> seconds of the processor"""


def report_growth(sizes: Sizes) -> list[Row]:
    """The exponent by which the report's second time grows in runs."""
    return [_growth("the report's second time in runs", (500, 1000, 2000), 5, report_scale.make_runs, _reported, sizes)]


def describe_growth(sizes: Sizes) -> list[Row]:
    """The exponent by which the time of `data describe` grows in captions."""
    what, make = "data describe's time in videos of 20 captions", describe_scale.make_annotations
    return [_growth(what, (2500, 5000, 10_000), 2, make, _described, sizes)]


def describe(sizes: Sizes) -> list[Row]:
    """`data describe` against that of 3e531d0."""
    what, goal = "data describe of 200,000 captions beyond imports / 3e531d0's", 0.5
    if sizes.before is None:
        return [left_out(what, goal, "less", "needs --before, a checkout of 3e531d0")]
    few, many = 2, 100 if sizes.quick else 10_000
    checkouts = {"now": ROOT, "3e531d0": sizes.before}
    with _made(describe_scale.make_annotations, (few, many)) as folders:
        sides = {
            (name, number): lambda checkout=checkout, folder=folder: _described(checkout, folder)
            for name, checkout in checkouts.items()
            for number, folder in folders.items()
        }
        costs = interleave(sides, min(_ROUNDS, sizes.rounds))
    beyond = {name: _beyond(costs[name, many], costs[name, few]) for name in checkouts}
    told = " and ".join(f"{name} {summary(turns).value:.3g} s" for name, turns in beyond.items())
    return [Row(what, goal, "less", ratio(beyond["now"], beyond["3e531d0"]), told)]


def _growth(what: str, numbers: tuple[int, ...], few: int, make: Make, seconds: Seconds, sizes: Sizes) -> Row:
    numbers = tuple(number // 100 * 10 for number in numbers) if sizes.quick else numbers
    with _made(make, (few, *numbers)) as folders:
        sides = {number: lambda folder=folder: seconds(ROOT, folder) for number, folder in folders.items()}
        costs = interleave(sides, min(_ROUNDS, sizes.rounds))
    beyond = {number: _beyond(costs[number], costs[few]) for number in numbers}
    told = ", ".join(f"{number:,}: {summary(turns).value:.3g} s" for number, turns in beyond.items())
    measured = exponent(numbers, [*beyond.values()])
    how = f"{told}, beyond that of {few}; linear is 1, {_SLACK} for noise"
    return Row(f"exponent of {what}", 1 + _SLACK, "less", measured, how)


def _beyond(much: list[float], little: list[float]) -> list[float]:
    """Of each round; never less than a hundredth of a second, which is what two starts differ by."""
    return [max(one - other, 0.01) for one, other in zip(much, little, strict=True)]


@contextmanager
def _made(make: Make, numbers: tuple[int, ...]) -> Iterator[dict[int, Path]]:
    """A folder for each number, which holds as many."""
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        folders = {number: Path(name, str(number)) for number in numbers}
        for number, folder in folders.items():
            make(folder, number)
        yield folders


def _reported(checkout: Path, runs: Path) -> float:
    """The warming round is the first time, so that those which count are later ones."""
    return report_scale.reported(runs, runs.with_name(f"{runs.name} reported"), checkout)["processor_seconds"]


def _described(checkout: Path, annotations: Path) -> float:
    return describe_scale.described(checkout, annotations)[0]
