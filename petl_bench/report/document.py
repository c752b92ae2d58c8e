"""`report.json`: all of a report for programs, by the schema `report.schema.json` that is packaged beside this."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from petl_bench.report.best import best_of, standing
from petl_bench.report.model import Column, Difference, Report, Row, SummaryRow, Table, Value
from petl_bench.storage.untrusted import plain_text

SCHEMA = "petl_bench.report/1"


def render_document(report: Report) -> str:
    """JSON; the same report gives the same bytes."""
    # Names of folders may be any bytes.
    return plain_text(json.dumps(as_document(report), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


@functools.cache
def document_schema() -> dict[str, Any]:
    """The JSON Schema of what `render_document` gives."""
    return json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))


def as_document(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "schema": SCHEMA,
        "tables": [_table(table) for table in report.tables],
        "summary": [_summary(row) for row in report.summary],
        "published": report.published,
        "mteb": [result.as_json() for result in report.mteb],
        "rejected": [{"path": item.path.as_posix(), "reason": item.reason} for item in report.rejected],
    }


def _table(table: Table) -> dict[str, Any]:
    best = best_of(table)
    return {
        "id": table.id,
        "title": table.title,
        "dataset": table.dataset,
        "protocol": table.protocol,
        "fixture": table.fixture,
        "main": table.main,
        "key": dict(table.key),
        "notes": table.notes,
        "columns": [
            {
                "title": column.title,
                "kind": column.kind,
                "unit": column.unit,
                "decimals": column.decimals,
                "higher_is_better": column.higher_is_better,
            }
            for column in table.columns
        ],
        "rows": [_row(row, table.quality, best) for row in table.rows],
    }


def _row(row: Row, quality: list[Column], best: dict[str, float]) -> dict[str, Any]:
    return {
        "name": row.name,
        "method": row.method,
        "backbone": row.backbone,
        "config_hash": row.config_hash,
        "runs": [{"seed": run.record["id"]["seed"], "path": run.path.as_posix()} for run in row.runs],
        "values": {title: _value(value) for title, value in row.values.items()},
        "to_best": {column.title: standing(row, column, best).value for column in quality},
        "from_best": {title: _difference(one) for title, one in row.from_best.items()},
        "from_full": {title: _difference(one) for title, one in row.from_full.items()},
        "published": {title: asdict(one) for title, one in row.published.items()},
        "state": row.state,
        "marks": row.marks,
        "hardware": row.hardware,
        "partial": row.partial,
        "commit": row.commit,
        "command": row.command,
    }


def _value(value: Value | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"mean": value.mean, "sd": value.sd, "n": value.n, "interval": _interval(value)}


def _interval(value: Value) -> list[float] | None:
    return None if value.interval is None else list(value.interval)


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {
        **asdict(difference),
        "interval": list(difference.interval),
        "distinguishable": difference.distinguishable,
    }


def _summary(row: SummaryRow) -> dict[str, Any]:
    return {
        "method": row.method,
        "backbone": row.backbone,
        "fixture": row.fixture,
        "values": {name: _value(value) for name, value in row.values.items()},
        "relative": row.relative,
        "rank": row.rank,
        "among": row.among,
        "others": row.others,
    }
