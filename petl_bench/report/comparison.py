"""Intervals of a table's figures, and how its rows differ from the best one and from full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from petl_bench.report.best import leading
from petl_bench.report.columns import without_many_types
from petl_bench.report.configurations import UnpairedError
from petl_bench.report.groups import grouped
from petl_bench.report.intervals import Statistics
from petl_bench.report.model import Column, Difference, Interval, Row, Table, Value
from petl_bench.report.statistics import Paired, holm
from petl_bench.report.tables import full_finetuning

#: mark of a row that was compared with none
UNPAIRED = "unpaired"
#: names that a note lists
_MOST_NAMES = 5

Differences = dict[str, dict[int, Difference]]
"""By title of a column and place of the row."""


def with_statistics(tables: list[Table], cache: Path | None) -> list[Table]:
    """Tables with intervals, and with the paired differences of rows.

    In every column of queries, each row is compared with the row that has the best figure, and with full fine-tuning;
    either is a family of tests of its own: of one column, over its rows (Holm). A row whose runs do not say what became
    of each query, or had other queries, stays: it is marked as unpaired, and a note tells why.

    Args:
        tables: with rows in their order.
        cache: folder of the report's cache, for what was calculated; None: nothing is kept.
    """
    statistics = Statistics(cache)
    compared = [_Comparison(table, statistics).compared() for table in tables]
    statistics.save()
    return compared


class _Comparison:
    """Of the rows of one table, which are called by their places."""

    def __init__(self, table: Table, statistics: Statistics) -> None:
        self._table, self._statistics = table, statistics
        self._columns = [column for column in table.columns if column.kind == "quality"]
        self._intervals: dict[int, dict[str, Interval]] = {}
        self._pairs: dict[tuple[int, int], dict[str, Paired]] = {}
        #: why a row has no intervals, and why it could not be compared with some other one
        self._unknown: dict[int, str] = {}
        self._refused: dict[int, str] = {}

    def compared(self) -> Table:
        best = {column.title: self._best(column) for column in self._columns}
        reference = full_finetuning(self._table)
        full = dict.fromkeys(best, None if reference is None else self._place(reference))
        wanted: dict[int, set[str]] = {}
        for title, place in (*best.items(), *full.items()):
            if place is not None:
                wanted.setdefault(place, set()).add(title)
        for place in wanted:
            self._look_at(place)
        for place in range(len(self._table.rows)):
            self._look_at(place)
            self._pair_with({other: sorted(titles) for other, titles in wanted.items() if other != place}, place)
        from_best, from_full = self._differences(best), self._differences(full)
        unpaired = self._unpaired()
        rows = [
            replace(
                row,
                values=_with_intervals(row.values, self._intervals.get(place, {})),
                from_best={title: found.get(place) for title, found in from_best.items()},
                from_full={title: found.get(place) for title, found in from_full.items()},
                marks=[*row.marks, UNPAIRED] if place in unpaired else row.marks,
            )
            for place, row in enumerate(self._table.rows)
        ]
        widths = _width_notes(rows, without_many_types(self._columns))
        reasons = [(self._table.rows[place].name, reason) for place, reason in unpaired.items()]
        return replace(
            self._table,
            rows=rows,
            notes=[*self._table.notes, *widths, *_unpaired_notes(reasons)],
        )

    def _best(self, column: Column) -> int | None:
        """Of equal ones the first that others can be compared with."""
        places = [self._place(row) for row in leading(self._table.rows, column)]
        for place in places:
            self._look_at(place)
        return next((place for place in places if place in self._intervals), next(iter(places), None))

    def _place(self, row: Row) -> int:
        return next(place for place, one in enumerate(self._table.rows) if one is row)

    def _look_at(self, place: int) -> None:
        if place in self._intervals or place in self._unknown:
            return
        try:
            self._intervals[place] = self._statistics.intervals(self._table.rows[place].runs)
        except UnpairedError as error:
            self._unknown[place] = str(error)

    def _pair_with(self, wanted: dict[int, list[str]], place: int) -> None:
        rows, known = self._table.rows, [other for other in wanted if {place, other} <= self._intervals.keys()]
        others = [(rows[other].runs, wanted[other]) for other in known]
        for other, found in zip(known, self._statistics.differences(rows[place].runs, others), strict=True):
            if isinstance(found, UnpairedError):
                self._refused[place] = f"{found}, compared with {rows[other].name}"
            else:
                self._pairs[place, other] = found

    def _differences(self, others: Mapping[str, int | None]) -> Differences:
        """From the row that is the other one in each column."""
        return {title: _adjusted(self._pairs_against(other, title)) for title, other in others.items()}

    def _pairs_against(self, other: int | None, title: str) -> dict[int, Paired]:
        return {one: pair[title] for (one, to), pair in self._pairs.items() if to == other and title in pair}

    def _unpaired(self) -> dict[int, str]:
        """Rows that were compared with none, though there were others, and why."""
        paired = {place for pair in self._pairs for place in pair}
        refused = {place: reason for place, reason in self._refused.items() if place not in paired}
        return dict(sorted((self._unknown | refused).items()))


def _adjusted(pairs: dict[int, Paired]) -> dict[int, Difference]:
    """Differences by place, as one family of tests."""
    adjusted = holm([pair.p for pair in pairs.values()])
    return {
        place: Difference(pair.delta, Interval(pair.low, pair.high), pair.p, p, pair.test)
        for (place, pair), p in zip(pairs.items(), adjusted, strict=True)
    }


def _with_intervals(values: dict[str, Value | None], intervals: dict[str, Interval]) -> dict[str, Value | None]:
    return {title: value and replace(value, interval=intervals.get(title)) for title, value in values.items()}


def _unpaired_notes(reasons: list[tuple[str, str]]) -> list[str]:
    """Of the names of rows, and why nothing was compared with them."""
    rows = grouped(reasons, lambda row: row[1])
    told = "; ".join(f"{_listed([name for name, _ in same])} ({reason})" for reason, same in rows.items())
    return [f"Unpaired, compared with no other row: {told}."] if told else []


def _width_notes(rows: list[Row], columns: list[Column]) -> list[str]:
    """How far figures may lie from those of other queries and seeds: half the width of the intervals."""
    shown = []
    for column in columns:
        known = [value.interval for row in rows if (value := row.values.get(column.title)) and value.interval]
        if known:
            half = median((interval.high - interval.low) / 2 for interval in known)
            shown.append(f"{column.title} ± {half:.{column.decimals}f}")
    return [f"95 % intervals (median over rows): {', '.join(shown)}."] if shown else []


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
