"""The leaderboard as GitHub Markdown, at most nine columns a table; names in records are foreign text, and escaped."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from petl_bench.report import mteb
from petl_bench.report.best import Standing, best_of, standing
from petl_bench.report.cells import MISSING, doubted, mean_and_deviation, number, of_mteb, one_line, signed, state
from petl_bench.report.collect import Rejected
from petl_bench.report.columns import quality_column, seconds_of, without_many_types
from petl_bench.report.model import Column, Report, Row, SummaryRow, Table
from petl_bench.report.mteb import MtebResult
from petl_bench.report.summary import other_rows
from petl_bench.report.tables import FIXTURE_STAMP

MOST_COLUMNS = 9
MOST_TYPES = 3
LEGEND = f"""\
Mean ± sample standard deviation over seeds [95 % interval of the mean]. **Best** of a column, unless all are equal; †:
not distinguishable from it (paired on the same queries: p, Holm-adjusted over the rows of the column, is above 0.05,
or the interval of the difference holds 0); ‡: not tested against it. A partial test is never the best. Published: what
a source states for the same recipe, and ours minus it. R@K and accuracy in percent; ranks start at 1. MB = 10⁶ bytes,
GB = 10⁹ bytes; Peak GB: memory that the largest process allocated on its GPU, or that training added to it on a CPU.
GMACs: 10⁹ multiply-adds of the vision tower on one clip. {MISSING}: unknown or not applicable. `wide.csv` and
`report.json` hold all columns."""

SUMMARY_LEGEND = """\
The main figure of each table. Relative: mean over tables of the figure divided by that of full fine-tuning. Rank: mean
over the tables that a method is in, among the methods that are in all of those. Where a table has several rows of a
method, the one with most seeds counts, then the packaged recipe, then the first by its hash, never by its figures;
beside the name stands how many others there are. Partial tests are left out. There is no score over datasets."""
PUBLISHED_LEGEND = """\
What sources state, by source and how it was read. State of our recipe (in brackets): `reproduced`, the published figure
lies in our 95 % interval; `within band`, it is off by at most 1.0 or two standard deviations over seeds; `off`; `not
comparable`; `not run`. With a question mark: what may be compared is not known altogether. `no recipe`: no packaged
configuration is of that backbone and method."""

_STANDINGS = {
    Standing.BEST: "**{}**",
    Standing.CLOSE: "{} †",
    Standing.UNTESTED: "{} ‡",
    Standing.WORSE: "{}",
    Standing.NONE: "{}",
}
_RETRIEVAL = ("t2v R@1", "t2v R@5", "t2v R@10", "v2t R@1")
_COSTS = ("Trainable %", "Adapter MB", "GMACs", "Peak GB", "GPU-hours", "Wall s", "clips/s train", "clips/s infer")
_SUMMARY_COLUMNS = ["Method", "Backbone", "Relative", "Rank"]
_PUBLISHED_COLUMNS = [
    *("Where", "Method", "Backbone", "Dataset", "Direction", "Figures", "Trainable", "State", "Remarks"),
]
_TEXT_COLUMNS = frozenset(
    {"Method", "Backbone", "State", "Task", "Model", "Revision", "What", "Source", *_PUBLISHED_COLUMNS} - {"Trainable"}
)


#: by what Markdown marks text up, what GitHub takes for the beginning of a link, and the sign of an address or a user
_LIVE = re.compile(
    r"[\\`*_\[\]|~$!]"
    r"|(?P<link>(?i:www(?=\.)|(?:https?|ftp|mailto|xmpp)(?=:)))"
    r"|(?P<at>(?<!\w)@(?=\w)|@(?=[\w-]+\.[\w.-]*[^\W\d_]))"
)


class Marked(str):
    """Markdown, as it is meant; any other text is escaped when it becomes a cell."""


def render_markdown(report: Report) -> str:
    """The leaderboard page; the same report gives the same bytes."""
    parts = ["# Leaderboard", LEGEND, *(part for table in report.tables for part in _table(table))]
    parts += [
        *_summaries(report),
        *_mteb(report.mteb),
        *_rejected(report.rejected),
        *_published_figures(report.published),
    ]
    return "\n\n".join(parts) + "\n"


def render_block(report: Report) -> str:
    """The tables alone, to stand within another page."""
    return "\n\n".join([*(part for table in report.tables for part in _table(table, "###")), LEGEND]) + "\n"


def escape_markdown(text: str) -> str:
    """Text that shows as itself inside a paragraph or table cell of GitHub Markdown; HTML is inert."""
    return _LIVE.sub(_inert, html.escape(one_line(text), quote=False))


def _inert(found: re.Match[str]) -> str:
    if found["link"]:
        return found["link"] + "\\"
    # A backslash before it does not keep GitHub from finding an address.
    return "@<!-- -->" if found["at"] else "\\" + found[0]


def grid(header: list[str], rows: Iterable[list[str]]) -> str:
    """A table; the columns of text are to the left."""
    rule = [Marked(":---" if title in _TEXT_COLUMNS else "---:") for title in header]
    return "\n".join("| " + " | ".join(map(_escaped, cells)) + " |" for cells in [header, rule, *rows])


def _escaped(text: str) -> str:
    return text if isinstance(text, Marked) else escape_markdown(text)


def _table(table: Table, heading: str = "##") -> list[str]:
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return [
        f"{heading} {escape_markdown(table.title)}",
        "\n".join(notes),
        _quality(table),
        *_by_type(table),
        *_second(table),
        _costs(table),
    ]


def _quality(table: Table) -> str:
    columns = _quality_columns(table)
    trainable = table.named(["Trainable M"])
    main, best = columns[0], best_of(table)
    published = [main] if any(main.title in row.published for row in table.rows) else []
    header = ["Method", *(column.title for column in (*trainable, *columns))]
    header += [*(f"Published {column.title}" for column in published), "Seeds", "State"]
    rows = [
        [
            row.name,
            *(mean_and_deviation(row.values[column.title], column) for column in trainable),
            *(_figure(row, column, best, column is main) for column in columns),
            *(_published(row, column) for column in published),
            str(len(row.runs)),
            state(row),
        ]
        for row in table.rows
    ]
    return grid(header, rows)


def _by_type(table: Table) -> Iterator[str]:
    """Types of questions that the grid before has no room for, each figure with its interval; not more than fit."""
    if table.named(_RETRIEVAL):
        return
    shown = _quality_columns(table)
    columns = [column for column in without_many_types(table.quality) if column not in shown]
    if not columns:
        return
    best = best_of(table)
    rows = [[row.name, *(_figure(row, column, best, True) for column in columns)] for row in table.rows]
    yield grid(["Method", *(column.title for column in columns)], rows)


def _second(table: Table) -> Iterator[str]:
    """Figures beside the plain ones: a grid for each name, of the rows that have any."""
    for second in seconds_of(table):
        rows = [
            [row.name, *(mean_and_deviation(row.values[c.title], c) for c in second.columns), str(second.seeds(row))]
            for row in second.rows
        ]
        yield f"Beside these, never to be held against plain figures: {escape_markdown(second.name)}"
        yield grid(["Method", *second.titles, "Seeds"], rows)


def _costs(table: Table) -> str:
    """What is known of any row."""
    columns = [column for column in table.named(_COSTS) if any(row.values[column.title] for row in table.rows)]
    rows = [
        [row.name, *(mean_and_deviation(row.values[column.title], column) for column in columns)] for row in table.rows
    ]
    return grid(["Method", *(column.title for column in columns)], rows)


def _quality_columns(table: Table) -> list[Column]:
    if retrieval := table.named(_RETRIEVAL):
        return retrieval
    return without_many_types(table.quality, MOST_TYPES)


def _figure(row: Row, column: Column, best: dict[str, float], interval: bool) -> str:
    """The main figure with its interval; the best is bold, what is not known to be worse has a mark."""
    value = row.values[column.title]
    text = mean_and_deviation(value, column)
    text = _STANDINGS[standing(row, column, best)].format(text)
    if interval and value is not None and value.interval is not None:
        low, high = (number(limit, column) for limit in value.interval)
        text = rf"{text} \[{low}, {high}\]"
    return Marked(text)


def _published(row: Row, column: Column) -> str:
    figure = row.published.get(column.title)
    if figure is None:
        return MISSING
    beside = [] if figure.difference is None else [signed(figure.difference, column)]
    beside += ["not comparable"] if figure.comparable == "no" else []
    beside += ["comparable?"] if figure.comparable == "unknown" else []
    return f"{number(figure.value, column)} ({', '.join(beside)})" if beside else number(figure.value, column)


def _summaries(report: Report) -> list[str]:
    """Over datasets; as many tables side by side as there is room for."""
    parts = []
    for fixture in (False, True):
        rows = [row for row in report.summary if row.fixture is fixture]
        tables = [table for table in report.tables if table.fixture is fixture]
        if not rows:
            continue
        parts.append(f"## Over datasets{f' ({FIXTURE_STAMP})' if fixture else ''}")
        parts.append(SUMMARY_LEGEND)
        times = Counter(table.protocol for table in tables)
        names = {table.id: table.id if times[table.protocol] > 1 else table.protocol for table in tables}
        room = MOST_COLUMNS - len(_SUMMARY_COLUMNS)
        parts += [_summary(rows, tables[first : first + room], names) for first in range(0, len(tables), room)]
    return parts


def _summary(rows: list[SummaryRow], tables: list[Table], names: dict[str, str]) -> str:
    header = [*_SUMMARY_COLUMNS, *(f"{names[table.id]}: {table.main}" for table in tables)]
    body = [
        [
            " ".join(filter(None, (row.method, other_rows(row)))),
            row.backbone,
            MISSING if row.relative is None else f"{row.relative:.3f}",
            MISSING if row.rank is None else f"{row.rank:.1f} of {row.among}",
            *(mean_and_deviation(row.values[table.id], quality_column(table.main)) for table in tables),
        ]
        for row in rows
    ]
    return grid(header, body)


def _published_figures(figures: list[dict[str, Any]]) -> list[str]:
    """A table for each source, folded."""
    if not figures:
        return []
    parts = ["## Published figures", PUBLISHED_LEGEND]
    for source, of_source in groupby(sorted(figures, key=itemgetter("source")), key=itemgetter("source")):
        listed = list(of_source)
        about = f"{source}: {listed[0]['citation']} ({listed[0]['read']})"
        # In HTML, Markdown's marks are ordinary characters.
        parts.append(f"<details><summary>{html.escape(one_line(about))}</summary>")
        parts.append(grid(_PUBLISHED_COLUMNS, map(_published_row, listed)))
        parts.append("</details>")
    return parts


def _published_row(figure: dict[str, Any]) -> list[str]:
    recipes = f" ({', '.join(figure['recipes'])})" if figure["recipes"] else ""
    return [
        figure["where"],
        figure["method"],
        figure["backbone"] or MISSING,
        figure["protocol"] or figure["dataset"],
        figure["direction"],
        ", ".join(f"{name} {value:g}" for name, value in figure["metrics"].items()) or MISSING,
        figure["trainable"] or MISSING,
        doubted(figure["state"], figure["comparable"] == "unknown") + recipes,
        "; ".join(filter(None, (figure["remarks"], figure["why"]))) or MISSING,
    ]


def _mteb(results: Sequence[MtebResult]) -> list[str]:
    if not results:
        return []
    return [f"## {mteb.TITLE}", mteb.NOTE, grid([*mteb.COLUMNS], [of_mteb(result) for result in results])]


def _rejected(rejected: list[Rejected]) -> list[str]:
    if not rejected:
        return []
    lines = [f"- {escape_markdown(item.path.as_posix())}: {escape_markdown(item.reason)}" for item in rejected]
    return ["## Rejected / not comparable", "\n".join(lines)]
