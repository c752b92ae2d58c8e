"""Which row of a column is the best one, and how the others stand to it: one definition for every format.

Rows of a partial test take no part: what they were spared may have been the hard queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from petl_bench.report.model import Column, Row, Table


class Standing(StrEnum):
    """How a figure stands to the best one of its column."""

    BEST = "best"
    CLOSE = "not distinguishable"
    WORSE = "worse"
    #: the best row, this one or the column has no test: nothing says that it is worse
    UNTESTED = "not tested"
    #: there is no figure, or no best one
    NONE = ""


def leading(rows: Sequence[Row], column: Column) -> list[Row]:
    """The rows with the best figure among those of a whole test: several where it is the same."""
    known = _whole(rows, column)
    best = _best((_mean(row, column) for row in known), column)
    return [row for row in known if _mean(row, column) == best]


def best_of(table: Table) -> dict[str, float]:
    """The figures that stand out, by title of a quality column: none where all rows of a whole test have the same."""
    found = {column.title: _outstanding(table.rows, column) for column in table.quality}
    return {title: figure for title, figure in found.items() if figure is not None}


def standing(row: Row, column: Column, best: dict[str, float]) -> Standing:
    """How a row's figure stands to the best one, by what `best_of` its table says."""
    if column.title not in best or row.values.get(column.title) is None:
        return Standing.NONE
    if not row.partial and _mean(row, column) == best[column.title]:
        return Standing.BEST
    difference = row.from_best.get(column.title)
    if difference is None:
        return Standing.UNTESTED
    return Standing.WORSE if difference.distinguishable else Standing.CLOSE


def _outstanding(rows: Sequence[Row], column: Column) -> float | None:
    means = {_mean(row, column) for row in _whole(rows, column)}
    return _best(means, column) if len(means) > 1 else None


def _whole(rows: Sequence[Row], column: Column) -> list[Row]:
    """Rows of a whole test that have a figure."""
    return [row for row in rows if not row.partial and row.values.get(column.title) is not None]


def _best(means: Iterable[float], column: Column) -> float | None:
    if column.higher_is_better is None:
        return None
    return (max if column.higher_is_better else min)(means, default=None)


def _mean(row: Row, column: Column) -> float:
    value = row.values[column.title]
    assert value is not None
    return value.mean
