"""Tables as Markdown, tidy CSV and terminal output. Every name in a record is foreign text and is escaped."""

import csv
import html
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from petl_bench.machine.output import console
from petl_bench.report.collect import Rejected, Run, metrics
from petl_bench.report.tables import MISSING, Table

_TEXT_COLUMNS = frozenset({"Method", "Backbone", "State", "Commit"})
_TERMINAL_COLUMNS = ("Method", "Trainable M", "t2v R@1", "v2t R@1", "Rsum", "Accuracy", "State")
"""What an ordinary terminal has room for."""
_MODEL_NUMBERS = ("trainable_params", "total_params", "adapter_bytes", "gmacs_vision", "gmacs_total")

_TEMPLATE = """\
# Leaderboard

Mean ± sample standard deviation over seeds. R@K and accuracy in percent; ranks start at 1. MB = 10⁶ bytes,
GB = 10⁹ bytes; Peak GB: memory that the largest process allocated on its GPU, or that training added to it on a CPU.
GMACs: 10⁹ multiply-adds of the vision tower on one clip. {{ missing }}: unknown or not applicable.
{% for table in tables %}

## {{ table.title }}

{% for note in table.notes %}
- {{ note }}
{% endfor %}

|{% for title in table.header %} {{ title }} |{% endfor +%}
|{% for title in table.header %} {{ ":---" if title in text_columns else "---:" }} |{% endfor +%}
{% for cells in table.body %}
|{% for cell in cells %} {{ cell }} |{% endfor +%}
{% endfor %}
{% endfor %}
{% if rejected %}

## Rejected / not comparable

{% for item in rejected %}
- {{ item.path.as_posix() }}: {{ item.reason }}
{% endfor %}
{% endif %}
"""


def render_markdown(tables: list[Table], rejected: list[Rejected]) -> str:
    """The leaderboard page; the same input gives the same bytes."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        # Applied to every expression of the template: no cell can be forgotten.
        finalize=lambda value: Markup(escape_markdown(str(value))),
    )
    page = environment.from_string(_TEMPLATE)
    return page.render(tables=tables, rejected=rejected, text_columns=_TEXT_COLUMNS, missing=MISSING)


def render_csv(tables: list[Table]) -> str:
    """Tidy CSV: one line per run and metric, with the fields that decide what it may be compared with."""
    lines = [line for table in tables for row in table.rows for run in row.runs for line in _lines(table, run)]
    text = io.StringIO()
    # Retrieval and the ways of answering have settings of their own.
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writerow({name: csv_cell(name) for name in names})
    writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def print_tables(tables: list[Table]) -> None:
    """Prints every table; a narrow terminal gets the main columns only."""
    screen = console(highlight=False, markup=False)
    unlimited = screen.options.update(max_width=10_000)
    for table in tables:
        full = _terminal_table(table, table.header)
        fits = screen.measure(full, options=unlimited).maximum <= screen.width
        short = [title for title in table.header if title in _TERMINAL_COLUMNS]
        screen.print(full if fits else _terminal_table(table, short))
        for note in table.notes:
            screen.print(one_line(note))
        screen.print()


def print_rejected(rejected: list[Rejected]) -> None:
    """Prints why files were left out."""
    for item in rejected:
        print(f"rejected: {one_line(item.path.as_posix())}: {one_line(item.reason)}")


def one_line(text: str) -> str:
    """Replaces line breaks, terminal escapes and direction marks, so that text cannot leave its cell."""
    return "".join(character if character.isprintable() else " " for character in text)


def escape_markdown(text: str) -> str:
    """Text that shows as itself inside a paragraph or table cell of GitHub Markdown; HTML is inert."""
    return re.sub(r"([\\`*_\[\]|~$!])", r"\\\1", html.escape(one_line(text), quote=False))


def csv_cell(value: Any) -> str:
    """A cell that no spreadsheet runs as a formula (OWASP's "CSV injection"); numbers keep their sign."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = one_line(str(value))
    if text.lstrip().startswith(("=", "+", "-", "@")) and not _is_number(text):
        return "'" + text
    return text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) is not None


def _terminal_table(table: Table, titles: list[str]) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(one_line(table.title)))
    for title in titles:
        text = title in _TEXT_COLUMNS
        shown.add_column(title, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    places = [table.header.index(title) for title in titles]
    for cells in table.body:
        shown.add_row(*(Text(one_line(cells[place])) for place in places))
    return shown


def _lines(table: Table, run: Run) -> Iterator[dict[str, Any]]:
    record = run.record
    shared = {
        **dict(table.key),
        "method": record["model"]["method"],
        "backbone": record["model"]["backbone"],
        **record["id"],
        "kind": record["kind"],
        "partial": record["protocol"]["partial"],
        "commit": record["env"]["commit"],
        "dirty": record["env"]["dirty"],
        "gpu": record["env"]["gpu"],
        "gpu_count": record["env"]["gpu_count"],
        "path": run.path.as_posix(),
    }
    for name, value in _values(record):
        yield {**shared, "metric": name, "value": value}


def _values(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every known number of a run under its dotted name."""
    model = record["model"]
    blocks: Iterable[tuple[str, Any]] = (
        ("eval", {**metrics(record), "cost": record["eval"]["cost"]}),
        ("model", {name: model[name] for name in _MODEL_NUMBERS}),
        ("train", record["train"]),
    )
    for prefix, block in blocks:
        yield from _numbers(prefix, block)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for part in sorted(value):
            yield from _numbers(f"{name}.{part}", value[part])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(f"{name}.{index}", item)
    elif isinstance(value, int | float):
        yield name, value
