"""How a row's figures are written: the same in every format, escaped by each in its own way."""

from __future__ import annotations

from petl_bench.formats import decimals_of
from petl_bench.report.model import Column, Row, Value
from petl_bench.report.mteb import MtebResult

MISSING = "-"


def number(value: float, column: Column) -> str:
    """With the decimals of its column; costs of small models are no zeros."""
    return f"{value:.{_decimals(value, column)}f}"


def mean_and_deviation(value: Value | None, column: Column) -> str:
    """`41.5 ± 2.1`; without a deviation where there is none, or where a cost is the same every time."""
    if value is None:
        return MISSING
    decimals = _decimals(value.mean, column)
    mean = f"{value.mean:.{decimals}f}"
    if value.sd is None or (column.kind == "cost" and not value.sd):
        return mean
    return f"{mean} ± {value.sd:.{decimals}f}"


def state(row: Row) -> str:
    """How the row stands to what is published, and what else must be known of it; `ok` if nothing must."""
    return ", ".join([doubted(row.state, bool(row.doubt))] * bool(row.state) + row.marks) or "ok"


def doubted(state: str, doubt: bool) -> str:
    """With a question mark if nobody knows whether the comparison is a fair one."""
    return f"{state}?" if doubt else state


def one_line(text: object) -> str:
    """Replaces line breaks, terminal escapes and direction marks, so that text cannot leave its cell."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else " " for character in line)


def _decimals(value: float, column: Column) -> int:
    return decimals_of(value, column.decimals) if column.kind == "cost" else column.decimals


def signed(value: float, column: Column) -> str:
    """A difference."""
    return f"{value:+.{column.decimals}f}"


def of_mteb(result: MtebResult) -> list[str]:
    """A result of MTEB as a row of its table."""
    where = [part for part in (result.split, result.subset) if part not in ("test", "default")]
    task = f"{result.task} ({', '.join(where)})" if where else result.task
    recall = [f"{value:.1f}" for value in result.recall] if result.recall else [MISSING] * 3
    main = f"{result.main:.1f} ({result.main_title})"
    return [task, result.model, result.revision, *recall, main, result.state or MISSING, result.version]
