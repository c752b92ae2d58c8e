"""Tables for spreadsheets and programs: a tidy CSV, one line per run and figure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from petl_bench.report.cells import one_line
from petl_bench.report.collect import Run, metrics
from petl_bench.report.model import Table

_MODEL_NUMBERS = ("trainable_params", "total_params", "adapter_bytes", "gmacs_vision", "gmacs_total")


def render_tidy(tables: list[Table]) -> str:
    """One line per run and metric, with the fields that decide what it may be compared with."""
    return _csv([line for table in tables for row in table.rows for run in row.runs for line in _lines(table, run)])


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


def _csv(lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    # Retrieval and the ways of answering have settings and figures of their own.
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writerow({name: csv_cell(name) for name in names})
    writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) is not None


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
