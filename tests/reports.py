"""Builds tables of a report, whole or with figures of one's own, for tests of its formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from petl_bench.report.collect import Collection, Run
from petl_bench.report.leaderboard import build_report
from petl_bench.report.model import Difference, Interval, Report, Row, Table, Value
from petl_bench.report.tables import build_tables
from tests.records import make_record


def runs_of(*records: dict[str, Any]) -> list[Run]:
    return [Run(Path(f"runs/{number}/result.json"), record) for number, record in enumerate(records)]


def tables_of(*records: dict[str, Any]) -> list[Table]:
    return build_tables(runs_of(*records))


def report_of(*records: dict[str, Any]) -> Report:
    return build_report(Collection(runs_of(*records), []))


def named(method: str, digit: str, **overrides: Any) -> dict[str, Any]:
    """A record of a method; the digit tells its configuration apart."""
    return make_record(model__method=method, id__config_hash=digit * 64, **overrides)


def with_intervals(report: Report) -> Report:
    """As statistics would leave it: every quality figure with an interval, every row but the first compared with it."""
    return replace(
        report, tables=[replace(t, rows=[_compared(row, t, row is t.rows[0]) for row in t.rows]) for t in report.tables]
    )


def _compared(row: Row, table: Table, is_first: bool) -> Row:
    values: dict[str, Value | None] = dict(row.values)
    differences: dict[str, Difference | None] = {}
    for column in table.columns:
        value = values[column.title]
        if column.kind == "quality" and value is not None:
            values[column.title] = replace(value, interval=Interval(value.mean - 3.125, value.mean + 2.875))
            differences[column.title] = (
                None if is_first else Difference(-0.3125, Interval(-1.5, 0.875), 0.21, 0.63, "mcnemar")
            )
    return replace(row, values=values, from_best=differences, from_full=dict(differences))
