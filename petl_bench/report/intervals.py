"""Intervals of a configuration's figures, and its differences from another one, from what its runs say of each query.

What was calculated is kept by the digests of the ranks, so that each figure is calculated once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petl_bench.report import statistics
from petl_bench.report.collect import Run
from petl_bench.report.configurations import IN_RSUM, Configuration, Direction, Read, configuration
from petl_bench.report.kept import Kept
from petl_bench.report.model import Interval
from petl_bench.report.queries import read_queries
from petl_bench.report.statistics import Paired

#: by which figures are calculated from ranks; another number makes everything anew
RULES = 1
#: configurations that are held at a time: the best of each column of a table, full fine-tuning, and the one at hand
_HELD = 16


class Statistics:
    """Intervals and differences, each calculated once.

    Args:
        cache: folder of the report's cache; None: nothing is kept.
        read: what a run says of its queries, by direction.
    """

    def __init__(self, cache: Path | None, read: Read = read_queries) -> None:
        self._read = read
        self._kept = Kept(cache, "statistics", f"{RULES}, numpy {np.__version__}")
        self._held: OrderedDict[str, Configuration] = OrderedDict()

    def intervals(self, runs: Sequence[Run]) -> dict[str, Interval]:
        """95 % intervals of the mean over seeds, by title of a column: all figures that follow from ranks.

        Args:
            runs: the seeds of a configuration; or one of them, for its own intervals.

        Raises:
            UnpairedError: a run has no readable ranks, or seeds had different queries.
        """
        key = f"intervals {_key(runs)}"
        if key not in self._kept:
            self._kept[key] = self._configuration(runs).intervals()
        return {title: Interval(*ends) for title, ends in self._kept[key].items()}

    def differences(self, ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Paired]:
        """Ours minus theirs by title of a column; medians have no test, and are left out.

        Raises:
            UnpairedError: as of `intervals`, or the two had different queries.
        """
        key = f"difference {_key(ours)} {_key(theirs)}"
        if key not in self._kept:
            self._kept[key] = difference(self._configuration(ours), self._configuration(theirs))
        return {title: Paired(*found) for title, found in self._kept[key].items()}

    def save(self) -> None:
        """Keeps what was asked for, and nothing else."""
        self._kept.save()

    def _configuration(self, runs: Sequence[Run]) -> Configuration:
        key = _key(runs)
        if key not in self._held:
            self._held[key] = configuration(runs, self._read)
        self._held.move_to_end(key)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return self._held[key]


def difference(ours: Configuration, theirs: Configuration) -> dict[str, Paired]:
    """Of every figure that is a mean: ours minus theirs, as `statistics.paired` says it.

    Raises:
        UnpairedError: they had different queries.
    """
    theirs = theirs.in_order_of(ours)
    ends = _ends(ours, theirs)
    found: dict[str, Paired] = {}
    shares = []
    for way, direction in ours.directions.items():
        apart = np.mean(direction.sums, axis=0) - np.mean(theirs.directions[way].sums, axis=0)  # (C, F)
        deltas = apart.sum(axis=0) / direction.sizes.sum(axis=0)
        tests = _tests(direction, theirs.directions[way], apart)
        for title, delta, (p, test) in zip(direction.titles, deltas, tests, strict=True):
            found[title] = Paired(round(float(delta), 6), *ends[title], p, test)
        if way in ("t2v", "v2t"):
            parts = [direction.titles.index(f"{way} R@{k}") for k in IN_RSUM]
            shares.append(apart[:, parts].sum(axis=1) / len(direction.clusters))
    if ours.has_rsum:
        of_videos = np.sum(shares, axis=0)  # (C,)
        p = float(statistics.sign_flip(of_videos)[0])
        found["Rsum"] = Paired(round(float(of_videos.sum()), 6), *ends["Rsum"], p, "sign-flip")
    return found


def _ends(ours: Configuration, theirs: Configuration) -> dict[str, tuple[float, float]]:
    apart = statistics.mean_over_seeds(ours.resampled) - statistics.mean_over_seeds(theirs.resampled, stream=1)
    return dict(zip(ours.titles, statistics.intervals(apart), strict=True))


def _tests(ours: Direction, theirs: Direction, apart: np.ndarray) -> list[tuple[float, str]]:
    """p and its test of each figure; `apart` is the difference in each cluster (C, F)."""
    exact: dict[int, float] = {}
    for place, title in enumerate(ours.titles):
        own, other = ours.hits(title), theirs.hits(title)
        if own is not None and other is not None:
            exact[place] = statistics.mcnemar(own, other)
    left = [place for place in range(len(ours.titles)) if place not in exact]
    flipped = dict(zip(left, statistics.sign_flip(apart[:, left]).tolist(), strict=True)) if left else {}
    return [
        (exact[place], "mcnemar") if place in exact else (flipped[place], "sign-flip")
        for place in range(len(ours.titles))
    ]


def _key(runs: Sequence[Run]) -> str:
    """Of the ranks of some seeds, in their order."""
    digests = [str(run.record["integrity"]["ranks_sha256"]) for run in runs]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
