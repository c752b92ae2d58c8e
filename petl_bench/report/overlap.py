"""Which queries two runs have in common, and which of these each gets right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from petl_bench.report.queries import Queries

#: what tells queries apart, and must be equal: their ids, and the videos that they are about
Keys = list[tuple[str, str]]


@dataclass(frozen=True)
class Overlap:
    """Queries by which of two runs get them right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def total(self) -> int:
        """All queries."""
        return self.both + self.only_a + self.only_b + self.neither


def right(queries: Queries) -> np.ndarray:
    """(N,) whether the target is the first hit, the answer is worth more than half, or the count is exact."""
    if queries.errors is not None:
        return queries.errors[:, 0] == 0
    if queries.ranks is not None:
        return queries.ranks == 1
    assert queries.scores is not None, "queries have ranks or scores"
    return queries.scores > 0.5


def overlap_of(a: np.ndarray, b: np.ndarray) -> Overlap:
    """Of what both got right (N,), on the same queries in the same order."""
    return Overlap(*(int(which.sum()) for which in (a & b, a & ~b, ~a & b, ~a & ~b)))


def keys_of(queries: Queries) -> Keys | None:
    """Of each query; None where a run of an earlier version does not say them."""
    if queries.ids is None or queries.videos is None:
        return None
    return list(zip(queries.ids, queries.videos, strict=True))


def rows_in_common(a: Keys, b: Keys) -> tuple[np.ndarray, np.ndarray]:
    """The rows of queries that both have, in either and in the order of the first (C,); keys are there once."""
    place = {key: row for row, key in enumerate(b)}
    rows = [(row, place[key]) for row, key in enumerate(a) if key in place]
    rows_a, rows_b = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    return rows_a, rows_b


def same_rows(a: Queries, b: Queries, complete: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The rows of each query in both runs, as `rows_in_common`; None if they had, or may have had, different queries.

    Args:
        a: of the first run.
        b: of the second.
        complete: whether both have all queries of the same split: then their order tells them, too.
    """
    keys_a, keys_b = keys_of(a), keys_of(b)
    if len(a) != len(b):
        return None
    if keys_a is None or keys_b is None:
        return (np.arange(len(a)), np.arange(len(b))) if complete else None
    if len(set(keys_a)) < len(a) or set(keys_a) != set(keys_b):
        return None
    return rows_in_common(keys_a, keys_b)
