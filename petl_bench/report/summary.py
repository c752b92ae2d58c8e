"""Methods over datasets: the main figure of every table, how it stands to full fine-tuning, and ranks.

There is no score over datasets: figures of galleries of other sizes have no mean.
"""

from __future__ import annotations

import json
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import replace

from petl_bench.report.groups import grouped
from petl_bench.report.model import Row, SummaryRow, Table, Value
from petl_bench.report.tables import full_finetuning, pin_of, preferred

Rows = dict[str, Row]
"""What stands for one method, by id of table."""


def summarise_tables(tables: list[Table]) -> list[SummaryRow]:
    """One row for each method with the same options on one backbone; measured ones first, fixtures apart from them.

    Where a table has several rows of one (other epochs, other rates), the preferred one counts, by what does not depend
    on its figures: the best would be chosen on the test. Rows of a partial test are left out.
    """
    return [
        row for fixture in (False, True) for row in _summary([table for table in tables if table.fixture is fixture])
    ]


def other_rows(row: SummaryRow) -> str:
    """`+2 other settings`; empty if there is none."""
    return f"+{row.others} other setting{'s' * (row.others > 1)}" if row.others else ""


def _summary(tables: list[Table]) -> list[SummaryRow]:
    if len({table.dataset for table in tables}) < 2:
        return []
    methods = _methods(tables)
    labels = _labels(methods)
    ranks = _ranks(methods, tables)
    whole = Counter(_key(row) for table in tables for row in table.rows if not row.partial)
    rows = [
        replace(_row(labels[key], found, ranks[key], tables), others=whole[key] - len(found))
        for key, found in methods.items()
    ]
    return sorted(rows, key=_order)


def _methods(tables: list[Table]) -> dict[str, Rows]:
    methods: dict[str, Rows] = {}
    for table in tables:
        for key, rows in grouped(table.rows, _key).items():
            if (row := preferred(rows)) is not None:
                methods.setdefault(key, {})[table.id] = row
    return methods


def _key(row: Row) -> str:
    return json.dumps([row.method, row.backbone, _options(row)], sort_keys=True)


def _options(row: Row) -> dict[str, object]:
    return row.runs[0].record["model"]["method_config"]


def _labels(methods: dict[str, Rows]) -> dict[str, str]:
    """By key: the method, with the options in which it differs from others of its name."""
    firsts = {key: next(iter(found.values())) for key, found in methods.items()}
    times = Counter((row.method, row.backbone) for row in firsts.values())
    return {
        key: row.method if times[row.method, row.backbone] == 1 else f"{row.method} ({_differing(row, firsts)})"
        for key, row in firsts.items()
    }


def _differing(row: Row, firsts: dict[str, Row]) -> str:
    same = [_options(one) for one in firsts.values() if (one.method, one.backbone) == (row.method, row.backbone)]
    values = {name: {json.dumps(options.get(name), sort_keys=True) for options in same} for name in _options(row)}
    named = [name for name in sorted(values) if len(values[name]) > 1]
    return ", ".join(f"{name} {_options(row)[name]}" for name in named) or row.config_hash[:8]


def _row(label: str, found: Rows, ranked: tuple[float | None, int], tables: list[Table]) -> SummaryRow:
    row = next(iter(found.values()))
    values = {table.id: _main(found.get(table.id), table) for table in tables}
    return SummaryRow(
        method=label,
        backbone=row.backbone,
        values=values,
        relative=_relative(values, tables),
        rank=ranked[0],
        among=ranked[1],
        fixture=tables[0].fixture,
    )


def _main(row: Row | None, table: Table) -> Value | None:
    return None if row is None else row.values[table.main]


def _relative(values: dict[str, Value | None], tables: list[Table]) -> float | None:
    """Mean over the tables that have full fine-tuning, too; where less is better, of the inverse."""
    shares = []
    for table in tables:
        value, full = values[table.id], _main(full_finetuning(table), table)
        if value is None or full is None or full.mean <= 0:
            continue
        if table.main_column.higher_is_better:
            shares.append(value.mean / full.mean)
        elif value.mean > 0:
            shares.append(full.mean / value.mean)
    return statistics.fmean(shares) if shares else None


def _ranks(methods: dict[str, Rows], tables: list[Table]) -> dict[str, tuple[float | None, int]]:
    """By key: the mean rank among the methods that all of the same tables have, and how many those are.

    Equal figures share the mean of their ranks.
    """
    means = {
        key: {
            table.id: value.mean if table.main_column.higher_is_better else -value.mean
            for table in tables
            if (value := _main(rows.get(table.id), table)) is not None
        }
        for key, rows in methods.items()
    }
    fields: dict[frozenset[str], dict[str, list[float]]] = {}
    for covered in {frozenset(own) for own in means.values()}:
        rivals = [own for own in means.values() if covered <= own.keys()]
        fields[covered] = {name: sorted(own[name] for own in rivals) for name in covered}
    return {key: _rank(own, fields[frozenset(own)]) for key, own in means.items()}


def _rank(own: dict[str, float], field: dict[str, list[float]]) -> tuple[float | None, int]:
    if not own:
        return None, 0
    ranks = []
    for name, figures in field.items():
        lower, upper = bisect_left(figures, own[name]), bisect_right(figures, own[name])
        ranks.append(len(figures) - (lower + upper - 1) / 2)
    return statistics.fmean(ranks), len(next(iter(field.values())))


def _order(row: SummaryRow) -> tuple[int, int, float, str, str]:
    """References first, as in tables; then those that most tables have, by rank."""
    missing = sum(value is None for value in row.values.values())
    return pin_of(row.method), missing, row.rank or 0.0, row.method, row.backbone
