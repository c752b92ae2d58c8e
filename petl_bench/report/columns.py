"""The numeric columns of a table: what each shows, and where a record says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from petl_bench.metrics.table import FIGURES, SCORES, figure_titled, kind_of, score_of
from petl_bench.report.collect import Run, second_figures
from petl_bench.report.groups import grouped
from petl_bench.report.labels import metric_title
from petl_bench.report.model import Column, Row, Table

Record = dict[str, Any]
Reader = Callable[[Record], float | None]

#: figures of a direction of retrieval that have a column, by name in a record
OF_DIRECTION = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MdR": "MdR", "MnR": "MnR"}
#: with more question types or groups than these, the terminal and papers show only the score over all questions
MOST_TYPES = 8
#: what tables leave to the record of figures that stand beside the plain ones
_UNSEEN = ("n", "R50", "MdR", "MnR")


class Source(NamedTuple):
    """A column, and its figure in a record; None if that does not say it."""

    column: Column
    read: Reader


def quality_sources(runs: list[Run]) -> list[Source]:
    """Figures of queries, the main one first: a protocol is either retrieval, question answering, or counting.

    Of questions with options the official figure is the main one, as the protocol says it.
    """
    kind = kind_of(runs[0].record["eval"])
    if kind != "accuracy":
        return _ERRORS if kind == "errors" else _RETRIEVAL
    level = "per_group" if any("per_group" in run.record["eval"] for run in runs) else "per_type"
    types = sorted({name for run in runs for name in run.record["eval"].get(level, {})})
    whole = [_MEAN_OF_TYPES] if any(len(run.record["eval"].get("per_type", {})) > 1 for run in runs) else []
    whole = whole if any("mean_of_types" in run.record["eval"] for run in runs) else []
    score = score_of(runs[0].record["eval"]).title
    of_types = [_quality(f"{score} {name}", _part_value(level, name)) for name in types]
    both = [_quality(score, _eval_value("accuracy")), *whole]
    official = any(run.record["protocol"].get("headline") == "mean_of_types" for run in runs)
    return [*(reversed(both) if official else both), *of_types]


def without_many_types(columns: Sequence[Column], most: int = MOST_TYPES) -> list[Column]:
    """Columns that there is room for: where question types are more, only the score over all questions."""
    types = [column for column in columns if column.title.startswith(tuple(f"{score.title} " for score in SCORES))]
    return list(columns) if len(types) <= most else [column for column in columns if column not in types]


def second_sources(runs: list[Run]) -> list[Source]:
    """Figures beside the plain ones, which have columns of their own: `Dual softmax (T 1): t2v R@1`."""
    titles = sorted({title for run in runs for title in second_figures(run.record)})
    return [source for title in titles for source in _second_sources(title, runs)]


class Second(NamedTuple):
    """Figures beside the plain ones.

    Attributes:
        name: what they have in common: `Dual softmax (T 1)`.
        columns: of the table.
        titles: of the columns without the name: `t2v R@1`.
        rows: of the table that have any of them.
    """

    name: str
    columns: list[Column]
    titles: list[str]
    rows: list[Row]

    def seeds(self, row: Row) -> int:
        """How many runs of a row have them: some may have been tested without."""
        return max(value.n for column in self.columns if (value := row.values.get(column.title)) is not None)

    def first_of_directions(self) -> Second:
        """With one column for t2v, and one for v2t where there is any."""
        places = {title.split(" ")[0]: place for place, title in reversed([*enumerate(self.titles)])}
        chosen = sorted(places.values())
        columns, titles = ([of[place] for place in chosen] for of in (self.columns, self.titles))
        return self._replace(columns=columns, titles=titles)


def seconds_of(table: Table) -> list[Second]:
    """The figures of a table that stand beside its plain ones, by name."""
    groups = grouped(
        (column for column in table.columns if column.kind == "second"), lambda column: _parts(column.title)[0]
    )
    return [
        Second(
            name,
            columns,
            [_parts(column.title)[1] for column in columns],
            [row for row in table.rows if any(row.values.get(column.title) for column in columns)],
        )
        for name, columns in groups.items()
    ]


def quality_column(title: str) -> Column:
    """A figure of queries, as the table of figures says it."""
    figure = figure_titled(title)
    return Column(title, "quality", figure.decimals, figure.higher_is_better, figure.unit)


def limits(title: str) -> tuple[float, float]:
    """The least and the most that a figure of queries can be."""
    figure = figure_titled(title)
    return figure.least, figure.most


def peak_gigabytes(record: Record) -> float | None:
    """Of the process that needed most."""
    peaks = record["train"] and record["train"]["peak_allocated_bytes"]
    return max(peaks) / 1e9 if peaks else None


def _quality(title: str, read: Reader) -> Source:
    return Source(quality_column(title), read)


def _cost(title: str, decimals: int, read: Reader, unit: str, higher_is_better: bool = False) -> Source:
    return Source(Column(title, "cost", decimals, higher_is_better, unit), read)


def _second_sources(title: str, runs: list[Run]) -> list[Source]:
    found = [item["directions"] for run in runs if (item := second_figures(run.record).get(title))]
    shown = {(way, name) for ways in found for way in ("t2v", "v2t") for name in ways.get(way, {})}
    return [
        Source(Column(_second_title(title, way, name), "second", 1, True, "%"), _second(title, way, name))
        for way, name in sorted(shown, key=lambda one: (one[0], in_order(one[1])))
        if name not in _UNSEEN
    ]


def in_order(name: str) -> tuple[str, int]:
    """Sorts names of figures: R1, R5, R10."""
    word = name.rstrip("0123456789")
    return word, int(name[len(word) :] or 0)


def _second_title(title: str, way: str, name: str) -> str:
    """A name that the title has said is not repeated."""
    name = metric_title(name)
    return f"{title}: {way}" if name == title else f"{title}: {way} {name}"


def _parts(title: str) -> tuple[str, str]:
    name, _, short = title.rpartition(": ")
    return name, short


def _second(title: str, way: str, name: str) -> Reader:
    def read(record: Record) -> float | None:
        return second_figures(record).get(title, {}).get("directions", {}).get(way, {}).get(name)

    return read


def _direction_value(direction: str, name: str) -> Reader:
    return lambda record: record["eval"][direction][name]


def _eval_value(name: str) -> Reader:
    return lambda record: record["eval"][name]


def _part_value(level: str, name: str) -> Reader:
    return lambda record: record["eval"].get(level, {}).get(name)


def _train_value(name: str) -> Reader:
    return lambda record: record["train"] and record["train"][name]


def _megabytes(record: Record) -> float | None:
    size = record["model"]["adapter_bytes"]
    return None if size is None else size / 1e6


def _percent(record: Record) -> float:
    return 100 * record["model"]["trainable_params"] / record["model"]["total_params"]


_RETRIEVAL = [
    *(
        _quality(f"{direction} {title}", _direction_value(direction, name))
        for direction in ("t2v", "v2t")
        for name, title in OF_DIRECTION.items()
    ),
    _quality("Rsum", lambda record: record["eval"]["rsum"]),
]
_ERRORS = [_quality(FIGURES[name].title, _eval_value(name)) for name in ("mse", "mse_raw")]
_MEAN_OF_TYPES = _quality("Mean of types", lambda record: record["eval"].get("mean_of_types"))

MODEL_SOURCES = [
    _cost("Trainable M", 3, lambda record: record["model"]["trainable_params"] / 1e6, "10⁶ parameters"),
    _cost("Trainable %", 3, _percent, "%"),
    _cost("Adapter MB", 2, _megabytes, "MB"),
    _cost("GMACs", 1, lambda record: record["model"]["gmacs_vision"], "10⁹ multiply-adds"),
]
MACHINE_SOURCES = [
    _cost("Peak GB", 2, peak_gigabytes, "GB"),
    _cost("GPU-hours", 2, _train_value("gpu_hours"), "h"),
    _cost("Wall s", 0, _train_value("wall_s"), "s"),
    _cost("clips/s train", 1, _train_value("clips_per_s"), "1/s", higher_is_better=True),
    _cost("clips/s infer", 1, lambda record: record["eval"]["cost"]["clips_per_s"], "1/s", higher_is_better=True),
]
"""Costs that depend on the machine they were measured on."""
