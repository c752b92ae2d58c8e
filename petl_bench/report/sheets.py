"""Tables for spreadsheets and programs: a tidy CSV, one line per run and figure, and a wide one, one line per row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from petl_bench.report.best import best_of, standing
from petl_bench.report.cells import one_line
from petl_bench.report.collect import Run, metrics, second_figures
from petl_bench.report.model import Column, Row, Table

_MODEL_NUMBERS = ("trainable_params", "total_params", "adapter_bytes", "gmacs_vision", "gmacs_total")


Line = dict[str, Any]


def render_tidy(tables: list[Table]) -> str:
    """One line per run and metric, with the fields that decide what it may be compared with."""
    runs = [(_shared(table, run), run) for table in tables for row in table.rows for run in row.runs]
    # Retrieval and the ways of answering have settings of their own.
    names = list(dict.fromkeys(name for shared, _ in runs for name in shared))
    return _csv([*names, "metric", "value"], (line for shared, run in runs for line in _tidy(names, shared, run)))


def render_wide(tables: list[Table]) -> str:
    """One line per row with all of it: every figure with spread, interval, comparisons and what is published."""
    lines = [_wide(table, row, best) for table in tables for best in (best_of(table),) for row in table.rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    return _csv(names, ([csv_cell(line.get(name)) for name in names] for line in lines))


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


def _csv(names: list[str], lines: Iterable[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, names))
    writer.writerows(lines)
    return text.getvalue()


def _tidy(names: list[str], shared: Line, run: Run) -> Iterator[list[str]]:
    cells = [csv_cell(shared.get(name)) for name in names]
    for metric, value in _values(run.record):
        yield [*cells, csv_cell(metric), csv_cell(value)]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) is not None


def _wide(table: Table, row: Row, best: dict[str, float]) -> Line:
    line: Line = {
        "table": table.id,
        "title": table.title,
        "dataset": table.dataset,
        "protocol": table.protocol,
        "fixture": table.fixture,
        "name": row.name,
        "method": row.method,
        "backbone": row.backbone,
        "config_hash": row.config_hash,
        "seeds": " ".join(str(run.record["id"]["seed"]) for run in row.runs),
        "state": row.state,
        "marks": ", ".join(row.marks),
        "hardware": "; ".join(row.hardware),
    }
    for column in table.columns:
        line |= _figure(row, column, best) if column.kind == "quality" else _spread(row, column.title)
    about = {
        "commit": row.commit,
        "command": row.command,
        "paths": " ".join(run.path.as_posix() for run in row.runs),
    }
    return line | about


def _spread(row: Row, title: str) -> Line:
    value = row.values[title]
    return {title: value and value.mean, f"{title} sd": value and value.sd, f"{title} n": value and value.n}


def _figure(row: Row, column: Column, best: dict[str, float]) -> Line:
    title = column.title
    value = row.values[title]
    interval = value.interval if value is not None else None
    line = _spread(row, title)
    line |= {f"{title} low": interval and interval.low, f"{title} high": interval and interval.high}
    for other, differences in (("best", row.from_best), ("full", row.from_full)):
        difference = differences.get(title)
        line |= {
            f"{title} minus {other}": difference and difference.delta,
            f"{title} minus {other} low": difference and difference.interval.low,
            f"{title} minus {other} high": difference and difference.interval.high,
            f"{title} minus {other} p": difference and difference.p,
            f"{title} minus {other} p_holm": difference and difference.p_holm,
            f"{title} minus {other} test": difference and difference.test,
        }
    figure = row.published.get(title)
    apart = figure.interval if figure is not None else None
    return line | {
        f"{title} to best": standing(row, column, best).value or None,
        f"{title} published": figure and figure.value,
        f"{title} published source": figure and f"{figure.source}, {figure.where}",
        f"{title} minus published": figure and figure.difference,
        f"{title} minus published low": apart and apart.low,
        f"{title} minus published high": apart and apart.high,
        f"{title} published comparable": figure and figure.comparable,
        f"{title} published why": figure and figure.why,
    }


def _shared(table: Table, run: Run) -> Line:
    record = run.record
    return {
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


def _values(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every known number of a run under its dotted name."""
    model = record["model"]
    blocks: Iterable[tuple[str, Any]] = (
        ("eval", {**metrics(record), "cost": record["eval"]["cost"], "second_figures": _second(record)}),
        ("model", {name: model[name] for name in _MODEL_NUMBERS}),
        ("train", record["train"]),
    )
    for prefix, block in blocks:
        yield from _numbers(prefix, block)


def _second(record: dict[str, Any]) -> dict[str, Any]:
    return {title: item["directions"] for title, item in second_figures(record).items()}


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for part in sorted(value):
            yield from _numbers(f"{name}.{part}", value[part])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(f"{name}.{index}", item)
    elif isinstance(value, int | float):
        yield name, value
