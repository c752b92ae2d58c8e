"""Tables as a terminal shows them."""

from __future__ import annotations

from typing import Any

from petl_bench.machine.output import console
from petl_bench.report.cells import mean_and_deviation, one_line, state
from petl_bench.report.collect import Rejected
from petl_bench.report.columns import without_many_types
from petl_bench.report.model import Column, Row, Table

_TEXT_COLUMNS = frozenset({"Method", "Backbone", "State", "Commit"})
_SHORT = ("Trainable M", "t2v R@1", "v2t R@1", "Rsum", "Accuracy", "MSE")
"""What an ordinary terminal has room for."""


def print_tables(tables: list[Table]) -> None:
    """Prints every table; a narrow terminal gets the main columns only."""
    screen = console(highlight=False, markup=False)
    unlimited = screen.options.update(max_width=10_000)
    for table in tables:
        full = _shown(table, without_many_types(table.columns), ["Backbone", "Seeds", "State", "Commit"])
        fits = screen.measure(full, options=unlimited).maximum <= screen.width
        short = [column for column in table.columns if column.title in _SHORT]
        screen.print(full if fits else _shown(table, short, ["State"]))
        for note in table.notes:
            screen.print(one_line(note))
        screen.print()


def print_rejected(rejected: list[Rejected]) -> None:
    """Prints why files were left out."""
    for item in rejected:
        print(f"rejected: {one_line(item.path.as_posix())}: {one_line(item.reason)}")


def _shown(table: Table, columns: list[Column], about: list[str]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(one_line(table.title)))
    for title in ["Method", *(column.title for column in columns), *about]:
        text = title in _TEXT_COLUMNS
        shown.add_column(Text(one_line(title)), justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in table.rows:
        figures = [mean_and_deviation(row.values[column.title], column) for column in columns]
        texts = [row.name, *figures, *(_about(row, title) for title in about)]
        shown.add_row(*(Text(one_line(text)) for text in texts))
    return shown


def _about(row: Row, title: str) -> str:
    known = {"Backbone": row.backbone, "Seeds": str(len(row.runs)), "State": state(row), "Commit": row.commit}
    return known[title]
