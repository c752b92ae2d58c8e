"""What the seeds of a configuration made of each query, and which queries these were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from petl_bench.metrics.table import FIGURES
from petl_bench.report import statistics
from petl_bench.report.collect import Run
from petl_bench.report.queries import Queries, has_all_queries, read_queries
from petl_bench.runs.record import ranks_beside
from petl_bench.storage.files import FileError

RECALL_AT = (1, 5, 10, 50)
IN_RSUM = (1, 5, 10)
#: of counts, in the order of the columns of their errors
ERRORS = ("mse", "mse_raw")


class UnpairedError(Exception):
    """Runs do not say what became of each query, or had other queries."""


@dataclass(frozen=True)
class Configuration:
    """Seeds that answered the same queries.

    Attributes:
        directions: `t2v`, `v2t`, `v2t_captions`; or `answers`; or `counts`.
        complete: whether the split's every query is there, so that its number tells which ones they are.
    """

    directions: dict[str, Direction]
    complete: bool

    @cached_property
    def titles(self) -> list[str]:
        """Of figures, in the order of the columns of `resampled`."""
        own = [title for direction in self.directions.values() for title in (*direction.titles, *direction.medians)]
        if self.has_rsum:
            return [*own, FIGURES["rsum"].title]
        return [*own, FIGURES["mean_of_types"].title] if self.of_types else own

    @cached_property
    def of_types(self) -> list[int]:
        """The columns whose mean is that of types; empty where there are not several, or only groups of them."""
        answered = self.directions.get("answers")
        if answered is None or answered.in_groups or len(answered.titles) < 3:
            return []
        return [*range(1, len(answered.titles))]

    @cached_property
    def has_rsum(self) -> bool:
        """Whether both directions are there, and resampled by the same videos, or files of these."""
        if not {"t2v", "v2t"} <= self.directions.keys():
            return False
        texts, videos = (np.unique(self.directions[way].clusters) for way in ("t2v", "v2t"))
        return np.array_equal(texts, videos)

    @cached_property
    def resampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Means over seeds of every figure in every resample (RESAMPLES, F), for seeds that are drawn in two ways.

        The second one is for what is compared with another configuration, whose seeds are others.
        """
        of_direction = [direction.resampled() for direction in self.directions.values()]
        seeds = [np.hstack(parts) for parts in zip(*of_direction, strict=True)]
        if self.has_rsum:
            parts = [self.titles.index(f"{way} R@{k}") for way in ("t2v", "v2t") for k in IN_RSUM]
            seeds = [np.hstack([seed, seed[:, parts].sum(axis=1, keepdims=True)]) for seed in seeds]
        elif self.of_types:
            seeds = [np.hstack([seed, seed[:, self.of_types].mean(axis=1, keepdims=True)]) for seed in seeds]
        first = statistics.mean_over_seeds(seeds)
        return first, first if len(seeds) == 1 else statistics.mean_over_seeds(seeds, stream=1)

    def in_order_of(self, other: Configuration) -> Configuration:
        """The same with its queries where the other one has them.

        Raises:
            UnpairedError: it had other queries.
        """
        if self.directions.keys() != other.directions.keys():
            raise UnpairedError("other queries: directions differ")
        known = self.complete and other.complete
        pairs = [(own, other.directions[way]) for way, own in self.directions.items()]
        moved = {own.name: own.in_order_of(theirs, known) for own, theirs in pairs}
        if all(moved[way] is own for way, own in self.directions.items()):
            return self
        return replace(self, directions=moved)


@dataclass(frozen=True)
class Direction:
    """What all seeds made of the queries of one direction.

    Attributes:
        name: of the direction.
        seeds: of each seed, the rank of each query (N,), or the score of each answer in percent; or the errors of each
            count (N, 2).
        clusters: what queries are resampled with (N,).
        ids: of queries (N,); None where the run does not say.
        types: of questions (N,); None of retrieval, and where the run does not say.
        score: what the mean of the scores of answers is called.
        in_groups: whether types are groups of types.
    """

    name: str
    seeds: list[np.ndarray]
    clusters: np.ndarray
    ids: np.ndarray | None
    types: np.ndarray | None
    score: str = FIGURES["accuracy"].title
    in_groups: bool = False

    @property
    def titles(self) -> list[str]:
        """Of the figures that are means, in the order of the columns of `sums`."""
        if self.name == "counts":
            return [FIGURES[name].title for name in ERRORS]
        if self.name != "answers":
            return [*(f"{self.name} R@{k}" for k in RECALL_AT), f"{self.name} MnR"]
        names = [] if self.types is None else np.unique(self.types).tolist()
        return [self.score, *(f"{self.score} {name}" for name in names)]

    @property
    def medians(self) -> list[str]:
        """Of the figures that are medians."""
        return [] if self.name in ("answers", "counts") else [f"{self.name} MdR"]

    @cached_property
    def alone(self) -> bool:
        """Whether each query is resampled on its own."""
        return len(np.unique(self.clusters)) == len(self.clusters)

    @cached_property
    def sums(self) -> list[np.ndarray]:
        """Values added up in each cluster, (C, F) of each seed."""
        return [self._sums(seed) for seed in self.seeds]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Queries of each cluster (C, 1) or, where figures are of different ones, (C, F)."""
        ones = np.ones(len(self.clusters))
        total = statistics.cluster_sums(ones, self.clusters)
        return total if self.types is None else np.hstack([total, self._by_type(ones)])

    def resampled(self) -> list[np.ndarray]:
        """Means, then medians, in every resample, (RESAMPLES, F) of each seed."""
        sizes = np.hstack([self.sizes] * len(self.seeds)) if self.sizes.shape[1] > 1 else self.sizes
        means = np.split(statistics.resampled_ratios(np.hstack(self.sums), sizes), len(self.seeds), axis=1)
        if not self.medians:
            return means
        medians = statistics.resampled_medians(np.stack(self.seeds, axis=1), self.clusters)  # (RESAMPLES, seeds)
        return [np.hstack([mean, median[:, None]]) for mean, median in zip(means, medians.T, strict=True)]

    def hits(self, title: str) -> np.ndarray | None:
        """Hits of a single seed (N,), where queries are resampled alone and a figure is a share of hits."""
        if len(self.seeds) > 1 or not self.alone or self.name == "counts":
            return None
        values = self.seeds[0]
        if self.name != "answers":
            _, recall, k = title.partition(" R@")
            return statistics.recall(values, int(k)) if recall else None
        if not np.isin(values, (0, 100)).all():
            return None
        _, typed, name = title.partition(" ")
        return values[self.types == name] if typed else values

    def in_order_of(self, other: Direction, known: bool) -> Direction:
        """See `Configuration.in_order_of`; `known`: both have all queries of the same split."""
        moved = self
        if len(self.clusters) != len(other.clusters):
            raise UnpairedError(f"other queries: their number differs ({len(other.clusters)} and {len(self.clusters)})")
        if self.ids is None or other.ids is None:
            if not known:
                raise UnpairedError("a part of the queries, and nothing says which")
        elif not np.array_equal(self.ids, other.ids):
            moved = self._moved_to(other.ids)
        if np.array_equal(moved.clusters, other.clusters):
            return moved
        if not np.array_equal(_partition(moved.clusters), _partition(other.clusters)):
            raise UnpairedError("other queries: they belong to other videos")
        return replace(moved, clusters=other.clusters)

    def _moved_to(self, ids: np.ndarray) -> Direction:
        assert self.ids is not None
        here, there = np.argsort(self.ids, kind="stable"), np.argsort(ids, kind="stable")
        if not np.array_equal(self.ids[here], ids[there]):
            raise UnpairedError("other queries: their ids differ")
        order = np.empty_like(here)
        order[there] = here
        types = None if self.types is None else self.types[order]
        return replace(
            self, seeds=[seed[order] for seed in self.seeds], clusters=self.clusters[order], ids=ids, types=types
        )

    def _sums(self, values: np.ndarray) -> np.ndarray:
        if self.name == "counts":
            return statistics.cluster_sums(values, self.clusters)
        if self.name != "answers":
            columns = [*(statistics.recall(values, k) for k in RECALL_AT), values]
            return statistics.cluster_sums(np.stack(columns, axis=1), self.clusters)
        total = statistics.cluster_sums(values, self.clusters)
        return total if self.types is None else np.hstack([total, self._by_type(values)])

    def _by_type(self, values: np.ndarray) -> np.ndarray:
        """Values (N,) added up over the questions of each type of a cluster: (C, types)."""
        assert self.types is not None
        names, kind = np.unique(self.types, return_inverse=True)
        labels, cluster = np.unique(self.clusters, return_inverse=True)
        sums = np.bincount(cluster * len(names) + kind, weights=values, minlength=len(labels) * len(names))
        return sums.reshape(len(labels), len(names))


def configuration(runs: Sequence[Run]) -> Configuration:
    """What the seeds of a configuration made of each query.

    Raises:
        UnpairedError: a run has no readable ranks, or seeds had different queries.
    """
    require_ranks(runs)
    seeds = [_of_run(run) for run in runs]
    try:
        same = [seed.in_order_of(seeds[0]) for seed in seeds]
    except UnpairedError as error:
        raise UnpairedError(f"its seeds had different queries ({error})") from error
    directions = {
        way: replace(direction, seeds=[seed.directions[way].seeds[0] for seed in same])
        for way, direction in seeds[0].directions.items()
    }
    return Configuration(directions, all(seed.complete for seed in same))


def require_ranks(runs: Sequence[Run]) -> None:
    """Refuses runs whose ranks are not there.

    Raises:
        UnpairedError: naming the first such seed.
    """
    for run in runs:
        if not (ranks := ranks_beside(run.path)).is_file():
            raise UnpairedError(f"no {ranks.name} of seed {run.record['id']['seed']}")


def _of_run(run: Run) -> Configuration:
    try:
        found = read_queries(run)
    except FileError as error:
        ranks, seed = ranks_beside(run.path).name, run.record["id"]["seed"]
        raise UnpairedError(f"{ranks} of seed {seed}: {error.reason}") from error
    if {"t2v", "v2t"} <= found.keys() and _clusters(found["t2v"]) != _clusters(found["v2t"]):
        raise UnpairedError("nothing says which captions are of the same video")
    directions = {way: _direction(way, queries) for way, queries in found.items()}
    return Configuration(directions, has_all_queries(run.record))


def _clusters(queries: Queries) -> int:
    return len(np.unique(queries.clusters))


def _direction(name: str, queries: Queries) -> Direction:
    ids = None if queries.ids is None else np.array(queries.ids)
    if queries.ranks is not None:
        return Direction(name, [queries.ranks], queries.clusters, ids, None)
    if queries.videos is None:
        raise UnpairedError("nothing says which questions are about the same video")
    if queries.errors is not None:
        return Direction(name, [queries.errors], queries.clusters, ids, None)
    assert queries.scores is not None, "queries have ranks, scores or errors"
    types = None if queries.types is None else np.array(queries.types)
    return Direction(name, [100 * queries.scores], queries.clusters, ids, types, queries.score, queries.in_groups)


def _partition(clusters: np.ndarray) -> np.ndarray:
    """Which queries belong together, whatever the labels (N,): the place of the first one of each."""
    _, first, cluster = np.unique(clusters, return_index=True, return_inverse=True)
    return first[cluster]
