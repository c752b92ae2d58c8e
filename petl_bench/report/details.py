"""What lies beside a record: learning curves and the fate of single queries.

Nothing here fails a report. What is missing, cut, foreign or too large is told in a line of `Details.missing`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from petl_bench.report.collect import Run
from petl_bench.report.labels import one_line
from petl_bench.report.overlap import Overlap, overlap_of, right, same_rows
from petl_bench.report.queries import Queries, has_all_queries, read_queries
from petl_bench.runs.record import METRICS_NAME
from petl_bench.storage.files import FileError
from petl_bench.storage.untrusted import UnreadableError, read_bytes

#: bytes of a metrics.csv: a week of steps has a tenth of it
MOST_BYTES = 20_000_000
MOST_CURVES, MOST_POINTS = 64, 200
#: hardest queries that are shown of a run
MOST_QUERIES = 20
#: what a query is searched in: first what tables are ordered by
DIRECTIONS = ("t2v", "v2t", "v2t_captions", "answers", "counts")
#: characters that are shown of a caption
_LONGEST = 300


@dataclass(frozen=True)
class Curve:
    """A logged quantity: at most `MOST_POINTS` means of neighbouring steps."""

    name: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class HardQuery:
    """A query and what came of it.

    Attributes:
        rank: of its target; None of an answer.
        score: of an answer; None of a search.
        words: of the query; its id where the run did not keep them.
        target: id of what was looked for, or the expected answers; empty if unknown.
        hits: ids of what was found instead, first hit first; of a question, what was answered.
        clip: id of the clip that was looked for or asked about; empty if unknown.
    """

    rank: int | None
    score: float | None
    error: float | None
    words: str
    target: str
    hits: list[str]
    clip: str


@dataclass(frozen=True)
class Details:
    """What is beside one record, and a line for each thing that is not."""

    curves: list[Curve] = field(default_factory=list)
    hardest: list[HardQuery] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Beside:
    """Reads what is beside records; nothing is kept for long, whatever the number of runs.

    Args:
        place: where a run really lies, for reports whose paths are not those of this machine.
    """

    def __init__(self, place: Callable[[Path], Path] = lambda path: path) -> None:
        self._place = place
        self._curves = lru_cache(maxsize=64)(read_curves)

    def path(self, run: Run) -> Path:
        """The record itself."""
        return self._place(run.path)

    def curves(self, run: Run) -> list[Curve]:
        """Learning curves; none if they cannot be read."""
        return self._curves(self.path(run).with_name(METRICS_NAME))[0]

    def details(self, run: Run) -> Details:
        """Everything of one run."""
        curves, complaints = self._curves(self.path(run).with_name(METRICS_NAME))
        hardest, reasons = self._hardest(run)
        return Details(curves, hardest, [*complaints, *reasons])

    def overlap(self, a: Run, b: Run) -> Overlap | None:
        """How two runs share the queries they get right; None if they had, or may have had, different queries."""
        try:
            first, second = self._queries(a), self._queries(b)
        except FileError:
            return None
        complete = has_all_queries(a.record) and has_all_queries(b.record)
        for direction in DIRECTIONS:
            if direction in first and direction in second:
                rows = same_rows(first[direction], second[direction], complete)
                return rows and overlap_of(right(first[direction])[rows[0]], right(second[direction])[rows[1]])
        return None

    def _queries(self, run: Run) -> dict[str, Queries]:
        return read_queries(Run(self.path(run), run.record))

    def _hardest(self, run: Run) -> tuple[list[HardQuery], list[str]]:
        try:
            found = self._queries(run)
        except FileError as error:
            return [], [f"No single queries: {one_line(error.path.name)} {one_line(error.reason)}."]
        direction = next((name for name in DIRECTIONS if name in found), None)
        if direction is None:
            return [], ["No single queries: the run kept none."]
        queries = found[direction]
        if queries.ids is None and queries.words is None:
            return hardest(queries), ["Queries by number: this run was made before their ids were kept."]
        return hardest(queries), []


def hardest(queries: Queries) -> list[HardQuery]:
    """The queries with the worst ranks, scores or errors, worst first; perfect ones are not hard."""
    if queries.ranks is not None:
        order = [n for n in np.argsort(-queries.ranks, kind="stable")[:MOST_QUERIES] if queries.ranks[n] > 1]
    elif queries.errors is not None:
        errors = queries.errors[:, 0]
        order = [n for n in np.argsort(-errors, kind="stable")[:MOST_QUERIES] if errors[n] > 0]
    elif queries.scores is not None:
        order = [n for n in np.argsort(queries.scores, kind="stable")[:MOST_QUERIES] if queries.scores[n] < 1]
    else:
        order = []
    return [_hard_query(queries, int(number)) for number in order]


def read_curves(path: Path) -> tuple[list[Curve], list[str]]:
    """The numeric columns of a `metrics.csv` over its steps, and what is wrong with it."""
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""))
        names = next(rows, [])[:MOST_CURVES]
        series, left_out = _series(names, rows)
    except UnicodeDecodeError:
        return [], [f"No learning curves: {path.name} is not UTF-8."]
    except (UnreadableError, csv.Error) as error:
        return [], [f"No learning curves: {path.name} {one_line(error)}."]
    if "step" not in names:
        return [], [f"No learning curves: {path.name} has no column `step`."]
    curves = [_curve(name, points) for name, points in series.items() if points]
    return curves, [f"{path.name}: {left_out} values or lines are cut, or no finite numbers."] if left_out else []


def _series(names: list[str], rows: Iterator[list[str]]) -> tuple[dict[str, list[tuple[float, float]]], int]:
    step = names.index("step") if "step" in names else -1
    wanted = [(place, one_line(name)) for place, name in enumerate(names) if name not in ("step", "epoch", "")]
    series: dict[str, list[tuple[float, float]]] = {name: [] for _, name in wanted}
    left_out = 0
    for cells in rows:
        at = _finite(cells[step]) if 0 <= step < len(cells) and len(cells) >= len(names) else None
        if at is None:
            left_out += bool(cells)
            continue
        for place, name in wanted:
            if cells[place] == "":
                continue
            value = _finite(cells[place])
            if value is None:
                left_out += 1
            else:
                series[name].append((at, value))
    return series, left_out


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e30 else None


def _curve(name: str, points: list[tuple[float, float]]) -> Curve:
    points = sorted(points)
    size = math.ceil(len(points) / MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return Curve(
        name,
        [math.fsum(step for step, _ in part) / len(part) for part in parts],
        [math.fsum(value for _, value in part) / len(part) for part in parts],
    )


def _hard_query(queries: Queries, number: int) -> HardQuery:
    name = queries.ids[number] if queries.ids is not None else f"query {number + 1}"
    words = queries.words[number] if queries.words is not None else name
    return HardQuery(
        rank=None if queries.ranks is None else int(queries.ranks[number]),
        score=None if queries.scores is None else float(queries.scores[number]),
        error=None if queries.errors is None else float(queries.errors[number, 0]),
        words=one_line(words or name)[:_LONGEST],
        target="" if queries.targets is None else one_line(queries.targets[number])[:_LONGEST],
        hits=[] if queries.hits is None else [one_line(hit)[:_LONGEST] for hit in queries.hits[number] if hit],
        clip="" if queries.videos is None else queries.videos[number],
    )
