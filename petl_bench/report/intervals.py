"""Intervals of a configuration's figures, and its differences from another one, from what its runs say of each query.

What was calculated is kept by the digests of the ranks, so that each figure is calculated once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from petl_bench.metrics.table import FIGURES
from petl_bench.report import statistics
from petl_bench.report.collect import Run
from petl_bench.report.columns import limits
from petl_bench.report.configurations import (
    IN_RSUM,
    Configuration,
    Direction,
    UnpairedError,
    configuration,
    require_ranks,
)
from petl_bench.report.groups import grouped
from petl_bench.report.kept import Kept
from petl_bench.report.model import Interval
from petl_bench.report.statistics import Paired

#: by which figures are calculated from ranks; another number makes everything anew
RULES = 3
_MEAN_OF_TYPES = FIGURES["mean_of_types"].title
#: configurations that are held at a time: the best of each column of a table, full fine-tuning, and the one at hand
_HELD = 16


class Statistics:
    """Intervals and differences, each calculated once.

    Args:
        cache: folder of the report's cache; None: nothing is kept.
    """

    def __init__(self, cache: Path | None) -> None:
        self._kept = Kept(cache, "statistics", f"{RULES}, numpy {np.__version__}")
        self._held: OrderedDict[str, Configuration] = OrderedDict()

    def intervals(self, runs: Sequence[Run]) -> dict[str, Interval]:
        """95 % intervals of the mean over seeds, by title of a column: all figures that follow from ranks.

        Args:
            runs: the seeds of a configuration; or one of them, for its own intervals.

        Raises:
            UnpairedError: a run has no readable ranks, or seeds had different queries.
        """
        require_ranks(runs)  # what is kept of them changes nothing
        key = f"intervals {_key(runs)}"
        known = _ends(self._kept.get(key))
        if known is None:
            found = self._configuration(runs)
            ends = statistics.intervals(found.resampled[0])
            known = self._kept[key] = dict(zip(found.titles, ends, strict=True))
        return {title: _possible(title, *ends) for title, ends in known.items()}

    def differences(
        self, ours: Sequence[Run], others: Iterable[tuple[Sequence[Run], Collection[str]]]
    ) -> list[dict[str, Paired] | UnpairedError]:
        """Ours minus each of some others, on the same queries.

        Args:
            ours: the seeds of a configuration.
            others: the seeds of each, and the titles of the columns to compare. Medians have no test: they are left
                out, as is what ranks do not tell.

        Returns:
            Of each of the others its differences by title; or what keeps the two from being compared.
        """
        refused: dict[str, UnpairedError] = {}
        untested: list[tuple[str, Untested]] = []
        asked = [(f"difference {_key(ours)} {_key(theirs)}", theirs, titles) for theirs, titles in others]
        for key, theirs, titles in asked:
            known = _pairs(self._kept.get(key))
            lacking = [title for title in titles if title not in known]
            try:
                require_ranks([*ours, *theirs])
                new = self._untested(ours, theirs, lacking)
            except UnpairedError as error:
                refused[key] = error
                continue
            untested += [(key, pair) for pair in new]
            self._kept[key] = known | dict.fromkeys(lacking)
        for (key, pair), found in zip(untested, tested([pair for _, pair in untested]), strict=True):
            self._kept[key][pair.title] = found
        return [refused[key] if key in refused else _chosen(self._kept[key], titles) for key, _, titles in asked]

    def save(self) -> None:
        """Keeps what was asked for, and nothing else."""
        self._kept.save()

    def _untested(self, ours: Sequence[Run], theirs: Sequence[Run], titles: Collection[str]) -> list[Untested]:
        return difference(self._configuration(ours), self._configuration(theirs), titles) if titles else []

    def _configuration(self, runs: Sequence[Run]) -> Configuration:
        key = _key(runs)
        if key not in self._held:
            self._held[key] = configuration(runs)
        self._held.move_to_end(key)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return self._held[key]


class Untested(NamedTuple):
    """A difference that lacks its test.

    Attributes:
        title: of the column.
        delta: ours minus theirs.
        ends: of its interval.
        p: of the exact test; None where it takes sign flips.
        apart: of each cluster, times what makes it a whole number where values are (C,).
    """

    title: str
    delta: float
    ends: tuple[float, float]
    p: float | None
    apart: np.ndarray


def difference(ours: Configuration, theirs: Configuration, titles: Collection[str]) -> list[Untested]:
    """Ours minus theirs, of those of some columns that are means.

    Raises:
        UnpairedError: they had different queries.
    """
    theirs = theirs.in_order_of(ours)
    parts = [
        part
        for way, direction in ours.directions.items()
        for part in _parts(direction, theirs.directions[way])
        if part.title in titles
    ]
    if "Rsum" in titles and ours.has_rsum:
        parts.append(_rsum(ours, theirs))
    if _MEAN_OF_TYPES in titles and ours.of_types:
        parts.append(_mean_of_types(ours, theirs))
    if not parts:
        return []
    places = [ours.titles.index(part.title) for part in parts]
    ends = statistics.intervals(ours.resampled[0][:, places] - theirs.resampled[1][:, places])
    return [
        Untested(part.title, round(part.delta, 6), end, part.p, part.apart)
        for part, end in zip(parts, ends, strict=True)
    ]


def tested(differences: Sequence[Untested]) -> list[Paired]:
    """The same with their tests, as `statistics.paired` says them; those of as many clusters at once."""
    p = {place: pair.p for place, pair in enumerate(differences) if pair.p is not None}
    left = [place for place in range(len(differences)) if place not in p]
    flipped: dict[int, float] = {}
    for places in grouped(left, lambda place: len(differences[place].apart)).values():
        found = statistics.sign_flip(np.stack([differences[place].apart for place in places], axis=1))
        flipped |= dict(zip(places, found.tolist(), strict=True))
    return [
        Paired(pair.delta, *pair.ends, *((p[place], "mcnemar") if place in p else (flipped[place], "sign-flip")))
        for place, pair in enumerate(differences)
    ]


class _Part(NamedTuple):
    title: str
    delta: float
    p: float | None
    apart: np.ndarray


def _parts(ours: Direction, theirs: Direction) -> list[_Part]:
    apart = _apart(ours, theirs)
    deltas = apart.sum(axis=0) / ours.sizes.sum(axis=0) / (len(ours.seeds) * len(theirs.seeds))
    return [
        _Part(title, float(delta), _exact(ours.hits(title), theirs.hits(title)), column)
        for title, delta, column in zip(ours.titles, deltas, apart.T, strict=True)
    ]


def _rsum(ours: Configuration, theirs: Configuration) -> _Part:
    """Of each video, what its captions and it add to the difference of Rsum."""
    of_videos = np.zeros(1)
    for way in ("t2v", "v2t"):
        own, other = ours.directions[way], theirs.directions[way]
        recalls = [own.titles.index(f"{way} R@{k}") for k in IN_RSUM]
        share = _apart(own, other)[:, recalls].sum(axis=1) / (len(own.seeds) * len(other.seeds))
        of_videos = of_videos + share / len(own.clusters)
    return _Part("Rsum", float(of_videos.sum()), None, of_videos)


def _mean_of_types(ours: Configuration, theirs: Configuration) -> _Part:
    """Of each video, what its questions add to the difference of the mean of types."""
    own, other = ours.directions["answers"], theirs.directions["answers"]
    share = _apart(own, other) / own.sizes.sum(axis=0) / (len(own.seeds) * len(other.seeds))
    of_videos = share[:, ours.of_types].mean(axis=1)
    return _Part(_MEAN_OF_TYPES, float(of_videos.sum()), None, of_videos)


def _apart(ours: Direction, theirs: Direction) -> np.ndarray:
    """Differences of sums in each cluster, times the seeds of both: whole numbers are added up exactly (C, F)."""
    return len(theirs.seeds) * np.sum(ours.sums, axis=0) - len(ours.seeds) * np.sum(theirs.sums, axis=0)


def _exact(ours: np.ndarray | None, theirs: np.ndarray | None) -> float | None:
    return None if ours is None or theirs is None else statistics.mcnemar(ours, theirs)


def _possible(title: str, low: float, high: float) -> Interval:
    """What a figure can be: few seeds may leave open more than that."""
    least, most = limits(title)
    return Interval(max(low, least), min(high, most))


def _ends(kept: Any) -> dict[str, Any] | None:
    """Intervals by title, as they were kept; None if that is anything else."""
    if not kept or not isinstance(kept, dict) or not all(_has_types(ends, (float, float)) for ends in kept.values()):
        return None
    return kept


def _pairs(kept: Any) -> dict[str, Any]:
    """Differences by title, as they were kept; None of what has no test. Without whatever is anything else."""
    if not isinstance(kept, dict):
        return {}
    return {title: pair for title, pair in kept.items() if pair is None or _has_types(pair, (*[float] * 4, str))}


def _has_types(value: Any, types: Sequence[type]) -> bool:
    return isinstance(value, list | tuple) and [type(part) for part in value] == [*types]


def _chosen(known: Mapping[str, Any], titles: Collection[str]) -> dict[str, Paired]:
    return {title: Paired(*known[title]) for title in titles if known.get(title)}


def _key(runs: Sequence[Run]) -> str:
    """Of the ranks of some seeds, in their order."""
    digests = [str(run.record["integrity"]["ranks_sha256"]) for run in runs]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
