"""The tables of a page as its template takes them: cells with what is beside them, in groups of columns."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.report.best import Standing, best_of, standing
from petl_bench.report.cells import mean_and_deviation, number
from petl_bench.report.columns import seconds_of
from petl_bench.report.details import Beside
from petl_bench.report.figures import is_reference, plots_of
from petl_bench.report.labels import COMPARABLE, MISSING, interval, one_line, setting, signed
from petl_bench.report.model import Column, Difference, PublishedFigure, Report, Row, SummaryRow, Table, Value
from petl_bench.report.summary import other_rows
from petl_bench.report.svg import svg
from petl_bench.report.templating import markup

#: a state and the sign before it
STATES = {"reproduced": "●", "within band": "◐", "off": "○", "not comparable": "–", "not run": "·"}
_MARKS = {Standing.BEST: "best", Standing.CLOSE: "tied", Standing.UNTESTED: "untested"}


class Cell(NamedTuple):
    """A figure as a page shows it.

    Attributes:
        text: the figure.
        sort: the number that rows are sorted by; empty if there is none.
        spread: what stands small beside it.
        tip: what is shown when it is pointed at.
        mark: `best`, `tied` with the best, `untested` against it; `doubtful` of what is not comparable; `state` of a
            state.
    """

    text: str = MISSING
    sort: str = ""
    spread: str = ""
    tip: str = ""
    mark: str = ""


class Shown(NamedTuple):
    """A column of a page.

    Attributes:
        kind: `quality`, `published`, `state`, `second`, `cost` or `seeds`.
        group: heading over neighbouring columns, by which they are hidden and shown; empty without.
        title: below it.
        about: title with unit.
        sort: what a first click puts on top: the `high` end, the `low` end, or `text` by the alphabet.
        column: of the table; None of what is none.
        main: rows are in its order.
        first: of its group.
    """

    kind: str
    group: str
    title: str
    about: str = ""
    sort: str = "high"
    column: Column | None = None
    main: bool = False
    first: bool = False


def board_of(table: Table, beside: Beside, links: dict[Path, str]) -> dict[str, Any]:
    """A table with its plots.

    Args:
        table: what is shown.
        beside: reads what lies beside records.
        links: to the runs, by path of the record.
    """
    figures = [*_quality_columns(table), *_published_columns(table), *_second_columns(table)]
    columns = [*figures, *_cost_columns(table), Shown("seeds", "", "Seeds")]
    groups = [(name, list(members)) for name, members in groupby(columns, lambda column: column.group)]
    columns = [column._replace(first=not place) for _, members in groups for place, column in enumerate(members)]
    best = best_of(table)
    return {
        "table": table,
        "columns": columns,
        "groups": [{"name": name, "span": len(members)} for name, members in groups],
        "several_backbones": len({row.backbone for row in table.rows}) > 1,
        "rows": _aligned([_row(table, row, columns, best, links) for row in table.rows]),
        "plots": [
            {"plot": plot, "svg": markup(svg(plot, f"{table.id}-{plot.name}"))} for plot in plots_of(table, beside)
        ],
        "settings": [(name, setting(value)) for name, value in table.key],
    }


def _shown(column: Column, kind: str, group: str, title: str, main: bool = False) -> Shown:
    about = f"{column.title}, {column.unit}" if column.unit else column.title
    return Shown(kind, group, title, about, "high" if column.higher_is_better else "low", column, main)


def _quality_columns(table: Table) -> list[Shown]:
    """Those whose titles begin alike (t2v, v2t, Accuracy, WUPS@0) in a group."""
    first = Counter(column.title.split(" ", 1)[0] for column in table.quality)
    columns = []
    for column in table.quality:
        word, _, rest = column.title.partition(" ")
        group, title = (word, rest or "all") if first[word] > 1 else ("Overall", column.title)
        columns.append(_shown(column, "quality", group, title, column.title == table.main))
    return columns


def _published_columns(table: Table) -> list[Shown]:
    published = [column for column in table.columns if any(column.title in row.published for row in table.rows)]
    states = [Shown("state", "Published", "State", sort="text")] if any(row.state for row in table.rows) else []
    return [*(_shown(column, "published", "Published", column.title) for column in published), *states]


def _second_columns(table: Table) -> list[Shown]:
    """Figures beside the plain ones: a group for each name."""
    return [
        _shown(column, "second", second.name, title)
        for second in seconds_of(table)
        for column, title in zip(second.columns, second.titles, strict=True)
    ]


def _cost_columns(table: Table) -> list[Shown]:
    """Costs that nobody measured have no column."""
    costs = [c for c in table.columns if c.kind == "cost" and any(row.values.get(c.title) for row in table.rows)]
    return [_shown(column, "cost", "Costs", column.title) for column in costs]


def _row(
    table: Table, row: Row, columns: list[Shown], best: dict[str, float], links: dict[Path, str]
) -> dict[str, Any]:
    return {
        "row": row,
        "id": row_id(table, row),
        "reference": is_reference(row),
        "cells": [_cell(row, shown, best) for shown in columns],
        "details": row_details(row, table.quality),
        "badge": STATES.get(row.state, ""),
        "runs": [(run.record["id"]["seed"], links[run.path]) for run in row.runs],
        "words": one_line(" ".join((row.name, row.method, row.backbone, row.state, *row.marks, *row.hardware))).lower(),
    }


def _aligned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures stand below each other also where only some have something small beside them."""
    spread = [any(cell.spread for cell in cells) for cells in zip(*(row["cells"] for row in rows), strict=True)]
    for row in rows:
        row["cells"] = [
            cell._replace(spread=" ") if wanted and not cell.spread else cell
            for cell, wanted in zip(row["cells"], spread, strict=True)
        ]
    return rows


def _cell(row: Row, shown: Shown, best: dict[str, float]) -> Cell:
    column = shown.column
    if column is None:
        seeds = f"{len(row.runs)}"
        return Cell(row.state, tip=row.doubt, mark="state") if shown.kind == "state" else Cell(seeds, seeds)
    if shown.kind == "published":
        return _published_cell(row.published.get(column.title), column)
    value = row.values.get(column.title)
    if shown.kind == "cost":
        return Cell() if value is None else Cell(number(value.mean, column), f"{value.mean:.8g}")
    if shown.kind == "second":
        return _second_cell(row, value, column)
    return _quality_cell(value, column, _MARKS.get(standing(row, column, best), ""))


def _quality_cell(value: Value | None, column: Column, mark: str = "") -> Cell:
    if value is None:
        return Cell()
    return Cell(
        number(value.mean, column),
        f"{value.mean:.8g}",
        spread="" if value.sd is None else f"± {value.sd:.{column.decimals}f}",
        tip=f"{column.title}: 95 % interval {interval(value.interval, column.decimals)}" if value.interval else "",
        mark=mark,
    )


def _second_cell(row: Row, value: Value | None, column: Column) -> Cell:
    cell = _quality_cell(value, column)
    if value is None or value.n == len(row.runs):
        return cell
    return cell._replace(tip=f"{column.title}: of {value.n} of {len(row.runs)} seeds")


def _published_cell(figure: PublishedFigure | None, column: Column) -> Cell:
    if figure is None:
        return Cell()
    return Cell(
        f"{figure.value:.{column.decimals}f}",
        f"{figure.value:.8g}",
        spread="" if figure.difference is None else signed(figure.difference, column.decimals),
        tip=_published_tip(figure, column),
        mark="" if figure.comparable == "yes" else "doubtful",
    )


def _published_tip(figure: PublishedFigure, column: Column) -> str:
    ends = "" if figure.interval is None else f" Difference: {interval(figure.interval, column.decimals)}."
    return f"{figure.source}, {figure.where}.{ends} Comparable: {figure.comparable}. {figure.why}".strip()


def row_id(table: Table, row: Row) -> str:
    """By which links find a row."""
    return f"{table.id}-{row.config_hash[:12]}"


def row_details(row: Row, columns: list[Column]) -> list[dict[str, str]]:
    """The figures of a row that it has, with intervals, differences and what is published."""
    found = []
    for column in columns:
        value = row.values.get(column.title)
        if value is None:
            continue
        published = row.published.get(column.title)
        found.append(
            {
                "title": column.title,
                "value": mean_and_deviation(value, column),
                "interval": interval(value.interval, column.decimals) if value.interval else MISSING,
                "best": _difference(row.from_best.get(column.title), column),
                "full": _difference(row.from_full.get(column.title), column),
                "published": _published_words(published, column) if published else MISSING,
            }
        )
    return found


def _difference(found: Difference | None, column: Column) -> str:
    if found is None:
        return MISSING
    p = "p < 0.001" if found.p_holm < 0.001 else f"p = {found.p_holm:.3f}"
    return f"{signed(found.delta, column.decimals)} {interval(found.interval, column.decimals)}, {p}"


def _published_words(figure: PublishedFigure, column: Column) -> str:
    value = f"{figure.value:.{column.decimals}f}"
    ends = "" if figure.interval is None else f" {interval(figure.interval, column.decimals)}"
    ours = "" if figure.difference is None else f" (ours {signed(figure.difference, column.decimals)}{ends})"
    why = f": {figure.why}" if figure.why else ""
    return f"{value}{ours}, {figure.source}, {figure.where}; {COMPARABLE[figure.comparable]}{why}"


def summary_boards(report: Report) -> list[dict[str, Any]]:
    """What is measured, and what is of generated data, apart."""
    found = []
    for fixture in (False, True):
        rows = [row for row in report.summary if row.fixture == fixture]
        tables = [t for t in report.tables if t.fixture == fixture]
        columns = [(t, t.main_column) for t in tables]
        if rows:
            found.append({"fixture": fixture, "columns": columns, "rows": [_summary_row(row, columns) for row in rows]})
    return found


def _summary_row(row: SummaryRow, columns: list[tuple[Table, Column]]) -> dict[str, Any]:
    cells = [_quality_cell(row.values.get(table.id), column) for table, column in columns]
    cells.append(Cell() if row.relative is None else Cell(f"{row.relative:.3f}", f"{row.relative:.8g}"))
    among = f"of {row.among}" if row.among else ""
    cells.append(Cell() if row.rank is None else Cell(f"{row.rank:.2f}", f"{row.rank:.8g}", spread=among))
    words = one_line(f"{row.method} {row.backbone}").lower()
    others = other_rows(row)
    return {"method": row.method, "others": others, "backbone": row.backbone, "cells": cells, "words": words}
