"""Tables as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from petl_bench.machine.output import console
from petl_bench.metrics.table import SCORES
from petl_bench.report import mteb
from petl_bench.report.cells import mean_and_deviation, of_mteb, one_line, state
from petl_bench.report.collect import Rejected
from petl_bench.report.columns import Second, seconds_of, without_many_types
from petl_bench.report.model import Column, Row, Table
from petl_bench.report.mteb import MtebResult

_TEXT_COLUMNS = frozenset({"Method", "Backbone", "State", "Commit", "Task", "Model", "Revision"})
_FIRST = "Trainable M"
_SHORT = ("t2v R@1", "v2t R@1", "Rsum", *(score.title for score in SCORES), "MSE")
"""What an ordinary terminal has room for, with the first and the main column."""


def print_tables(tables: list[Table]) -> None:
    """Prints every table; a narrow terminal gets the main columns only."""
    screen = console(highlight=False, markup=False)
    for table in tables:
        short = table.named(dict.fromkeys((_FIRST, table.main, *_SHORT)))
        plain = [column for column in table.columns if column.kind != "second"]
        full = _shown(table, without_many_types(plain), ["Backbone", "Seeds", "State", "Commit"])
        screen.print(full if _fits(screen, full) else _shown(table, short, ["State"]))
        for second in seconds_of(table):
            full = _shown_beside(second)
            screen.print(full if _fits(screen, full) else _shown_beside(second.first_of_directions()))
        for note in table.notes:
            screen.print(one_line(note))
        screen.print()


def print_mteb(results: Sequence[MtebResult]) -> None:
    """Prints results of MTEB, if there are any, and that they stand for themselves."""
    if not results:
        return
    screen = console(highlight=False, markup=False)
    screen.print(_grid(mteb.TITLE, [*mteb.COLUMNS], [of_mteb(result) for result in results]))
    screen.print(one_line(mteb.NOTE))
    screen.print()


def print_rejected(rejected: list[Rejected]) -> None:
    """Prints why files were left out."""
    for item in rejected:
        print(f"rejected: {one_line(item.path.as_posix())}: {one_line(item.reason)}")


def _fits(screen: Any, shown: Any) -> bool:
    return screen.measure(shown, options=screen.options.update(max_width=10_000)).maximum <= screen.width


def _shown(table: Table, columns: list[Column], about: list[str]) -> Any:
    rows = [[row.name, *_figures(row, columns), *(_about(row, title) for title in about)] for row in table.rows]
    return _grid(table.title, ["Method", *(column.title for column in columns), *about], rows)


def _shown_beside(second: Second) -> Any:
    rows = [[row.name, *_figures(row, second.columns), str(second.seeds(row))] for row in second.rows]
    return _grid(f"beside these: {second.name}", ["Method", *second.titles, "Seeds"], rows)


def _figures(row: Row, columns: list[Column]) -> list[str]:
    return [mean_and_deviation(row.values[column.title], column) for column in columns]


def _grid(title: str, header: list[str], rows: list[list[str]]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(one_line(title)))
    for name in header:
        text = name in _TEXT_COLUMNS
        shown.add_column(Text(one_line(name)), justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(one_line(text)) for text in row))
    return shown


def _about(row: Row, title: str) -> str:
    known = {"Backbone": row.backbone, "Seeds": str(len(row.runs)), "State": state(row), "Commit": row.commit}
    return known[title]
