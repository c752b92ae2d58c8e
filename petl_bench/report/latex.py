r"""Tables for papers: LaTeX with booktabs, one file a table, to be read with \input."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate, pairwise

from petl_bench.report.best import Standing, best_of, standing
from petl_bench.report.cells import MISSING, mean_and_deviation, number, one_line, signed
from petl_bench.report.columns import Second, seconds_of, without_many_types
from petl_bench.report.model import Column, Row, Table

_COSTS = ("Trainable M", "Trainable %", "Adapter MB", "Peak GB")
_QUALITY = ("t2v R@1", "t2v R@5", "t2v R@10", "v2t R@1", "v2t R@5", "v2t R@10", "Rsum")
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "±": r"$\pm$",
    "[": "{[}",  # after a line break it would be an option
    "]": "{]}",
}
_ANY_SPECIAL = re.compile("|".join(map(re.escape, _SPECIAL)))
_STANDINGS = {
    Standing.BEST: r"\textbf{TEXT}",
    Standing.CLOSE: r"\underline{TEXT}",
    Standing.UNTESTED: r"TEXT$^{\ddagger}$",
    Standing.WORSE: "TEXT",
    Standing.NONE: "TEXT",
}
_NOTE = (
    "mean and sample standard deviation over seeds, 95 % interval in brackets; bold: best of a column, unless "
    "all are equal; underlined: not distinguishable from it (paired: p, Holm-adjusted over the rows of the column, is "
    "above 0.05, or the interval of the difference holds 0); double dagger: not tested against it; published: what a "
    "source states for the recipe, and ours minus it"
)
_BESIDE = "figures beside the plain ones, never to be held against those; mean and sample standard deviation over seeds"


def render_table(table: Table) -> str:
    """One table; needs `booktabs` and, for quotation marks in names, `textcomp`."""
    costs, quality = table.named(_COSTS), _quality(table)
    main, best = quality[0], best_of(table)
    header = ["Method", *(column.title for column in (*costs, *quality)), f"Published {main.title}", "Seeds"]
    notes = (table.title, *table.notes, _NOTE)
    return _tabular(
        notes, [_line(map(escape_latex, header))], [_cells(row, costs, quality, best) for row in table.rows]
    )


def render_second(table: Table) -> str | None:
    """The figures beside the plain ones, which a paper shows apart from them; None without any."""
    groups = seconds_of(table)
    if not groups:
        return None
    names = [rf"\multicolumn{{{len(second.columns) + 1}}}{{c}}{{{escape_latex(second.name)}}}" for second in groups]
    ends = accumulate((len(second.columns) + 1 for second in groups), initial=1)
    rules = [rf"\cmidrule(lr){{{before + 1}-{end}}}" for before, end in pairwise(ends)]
    titles = ["Method", *(title for second in groups for title in (*second.titles, "Seeds"))]
    rows = [
        [escape_latex(row.name), *(cell for second in groups for cell in _second(second, row))]
        for row in table.rows
        if any(row in second.rows for second in groups)
    ]
    head = [_line(["", *names]), " ".join(rules), _line(map(escape_latex, titles))]
    return _tabular((table.title, _BESIDE), head, rows)


def _second(second: Second, row: Row) -> list[str]:
    seeds = second.seeds(row) if row in second.rows else MISSING
    return [*(_mean(row, column) for column in second.columns), str(seeds)]


def _tabular(notes: Iterable[str], head: list[str], rows: list[list[str]]) -> str:
    lines = [
        *(f"% {_comment(note)}" for note in notes),
        rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
        r"\toprule",
        *head,
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text that prints as itself, whatever it holds."""
    return _ANY_SPECIAL.sub(lambda found: _SPECIAL[found[0]], one_line(text))


def _comment(text: str) -> str:
    return one_line(text)


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _quality(table: Table) -> list[Column]:
    return table.named(_QUALITY) or without_many_types(table.quality)


def _cells(row: Row, costs: list[Column], quality: list[Column], best: dict[str, float]) -> list[str]:
    return [
        escape_latex(row.name),
        *(_mean(row, column) for column in costs),
        *(_figure(row, column, best, column is quality[0]) for column in quality),
        escape_latex(_published(row, quality[0])),
        str(len(row.runs)),
    ]


def _mean(row: Row, column: Column) -> str:
    return escape_latex(mean_and_deviation(row.values[column.title], column))


def _figure(row: Row, column: Column, best: dict[str, float], interval: bool) -> str:
    value = row.values[column.title]
    text = _mean(row, column)
    text = _STANDINGS[standing(row, column, best)].replace("TEXT", text)
    if interval and value is not None and value.interval is not None:
        low, high = (number(limit, column) for limit in value.interval)
        text += escape_latex(f" [{low}, {high}]")
    return text


def _published(row: Row, column: Column) -> str:
    figure = row.published.get(column.title)
    if figure is None:
        return MISSING
    shown = number(figure.value, column)
    return shown if figure.difference is None else f"{shown} ({signed(figure.difference, column)})"
