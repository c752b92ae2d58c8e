"""Measured rows beside published figures: what may be compared, and which recipes reproduce what was published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from petl_bench.report.marks import cuts_of, training_of
from petl_bench.report.model import Interval, PublishedFigure, Row, Table, Value
from petl_bench.report.published import TITLES, Figure, Recipe, published
from petl_bench.storage.dotted import get

BAND = 1.0
"""Points that a figure may be off and still count as near, if two standard deviations over seeds are not more."""
TRAINABLE_TOLERANCE = 0.1
"""Share by which counts of trainable parameters may differ: what is counted (heads, biases) does."""
NOT_RUN, NO_RECIPE, NOT_COMPARABLE = "not run", "no recipe", "not comparable"
_ORDER = ("yes", "unknown", "no")


class Comparison(NamedTuple):
    """Whether a row may be held against a figure: `yes`, `no` or `unknown`, and what stands in the way."""

    comparable: str
    why: str


def with_published(tables: list[Table]) -> tuple[list[Table], list[dict[str, Any]]]:
    """Fills `published` and `state` of rows.

    Returns:
        The tables, and every published figure as a plain mapping with the state of its recipe.
    """
    filled = [
        table if table.fixture else replace(table, rows=[_filled(row, table) for row in table.rows]) for table in tables
    ]
    measured = [table for table in filled if not table.fixture]
    return filled, [_listed(figure, measured) for figure in published().figures]


def state_of(value: Value, figure: float, comparable: str) -> str:
    """How a measured figure stands to a published one: `reproduced`, `within band`, `off` or `not comparable`."""
    if comparable == "no":
        return NOT_COMPARABLE
    if value.interval is not None and value.interval.low <= figure <= value.interval.high:
        return "reproduced"
    return "within band" if abs(value.mean - figure) <= max(BAND, 2 * (value.sd or 0.0)) else "off"


def matches(row: Row, table: Table, figure: Figure) -> bool:
    """Whether a row is our version of what a figure is of. What is made up is nobody's."""
    if table.fixture or table.dataset != figure.dataset:
        return False
    return any(_is(row, published().recipes[name]) for name in figure.recipes)


def compare(row: Row, table: Table, figure: Figure) -> Comparison:
    """Holds the evaluation, the size and the training of a row against what is known of a figure."""
    differences = list(_differences(row, table, figure))
    if differences:
        return Comparison("no", "; ".join(differences))
    unknown = list(_unknown(row, figure))
    return Comparison("unknown" if unknown else "yes", "; ".join(unknown))


def _is(row: Row, recipe: Recipe) -> bool:
    config = row.runs[0].record["model"]["method_config"]
    same_options = all(get(config, name) == value for name, value in recipe.options.items())
    return row.method == recipe.method and _plain(row.backbone) == recipe.backbone and same_options


def _plain(backbone: str) -> str:
    """open_clip tells OpenAI's models by their activation."""
    return backbone.removesuffix("-quickgelu")


def _filled(row: Row, table: Table) -> Row:
    found: dict[str, PublishedFigure] = {}
    figures = [(figure, compare(row, table, figure)) for figure in published().figures if matches(row, table, figure)]
    for figure, comparison in sorted(figures, key=lambda pair: _ORDER.index(pair[1].comparable)):
        for title, value in _by_title(figure):
            if title in row.values:
                found.setdefault(title, _beside(row.values[title], value, figure, comparison))
    main = found.get(table.main)
    value = row.values[table.main]
    state = state_of(value, main.value, main.comparable) if main is not None and value is not None else ""
    return replace(row, published=found, state=state)


def _by_title(figure: Figure) -> Iterator[tuple[str, float]]:
    for metric, value in figure.metrics.items():
        if (figure.direction, metric) in TITLES:
            yield TITLES[figure.direction, metric], value


def _beside(ours: Value | None, value: float, figure: Figure, comparison: Comparison) -> PublishedFigure:
    difference = None if ours is None else ours.mean - value
    ends = ours.interval if ours is not None else None
    apart = None if ends is None else Interval(ends.low - value, ends.high - value)
    return PublishedFigure(value, figure.source, figure.where, difference, *comparison, apart)


def _listed(figure: Figure, tables: list[Table]) -> dict[str, Any]:
    """A figure and how our version of it did: the first row of the first table that is one."""
    rows = [(row, table) for table in tables for row in table.rows if matches(row, table, figure)]
    plain = {
        "source": figure.source,
        **published().sources[figure.source]._asdict(),
        "where": figure.where,
        "method": figure.method,
        "recipes": list(figure.recipes),
        "backbone": figure.backbone,
        "dataset": figure.dataset,
        "protocol": figure.protocol,
        "direction": figure.direction,
        "metrics": dict(figure.metrics),
        "sd": list(figure.sd),
        **{name: figure.costs.get(name) for name in ("trainable", "seeds")},
        "augmentation": figure.augmentation,
        "remarks": figure.remarks,
        "state": NOT_RUN if figure.recipes else NO_RECIPE,
        "comparable": None,
        "why": "",
        "table": None,
        "row": None,
    }
    if not rows:
        return plain
    row, table = rows[0]
    comparison = compare(row, table, figure)
    return plain | {
        "state": _state(row, figure, comparison),
        "comparable": comparison.comparable,
        "why": comparison.why,
        "table": table.id,
        "row": row.name,
    }


def _state(row: Row, figure: Figure, comparison: Comparison) -> str:
    """By the first of its metrics that the row has, too."""
    for title, value in _by_title(figure):
        if (ours := row.values.get(title)) is not None:
            return state_of(ours, value, comparison.comparable)
    return NOT_COMPARABLE


def _differences(row: Row, table: Table, figure: Figure) -> Iterator[str]:
    protocol = row.runs[0].record["protocol"]
    ours = table.protocol.partition("/")[0]
    if figure.protocol not in (None, ours):
        yield f"protocol {figure.protocol}, here {ours}"
    for name, value in (figure.inference or {}).items():
        if (here := protocol["inference"].get(name)) != value:
            yield f"{name} {_shown(value)}, here {_shown(here)}"
    preprocess = protocol["preprocess"]
    for name, value, here in (
        ("frames", figure.frames, preprocess.get("frames")),
        ("pixels", figure.pixels, preprocess.get("image_size")),
    ):
        if value is not None and here is not None and value != here:
            yield f"{value} {name}, here {here}"
    yield from _other_size(row, figure)
    yield from _other_training(row, figure)


def _other_size(row: Row, figure: Figure) -> Iterator[str]:
    if figure.trainable is None:
        return
    value, unit = figure.trainable
    ours = row.values.get({"%": "Trainable %", "M": "Trainable M"}[unit])
    if ours is not None and abs(ours.mean - value) > TRAINABLE_TOLERANCE * value:
        yield f"{value:g} {unit} are trained, here {ours.mean:.3g} {unit}"


def _other_training(row: Row, figure: Figure) -> Iterator[str]:
    records = [run.record for run in row.runs]
    if row.partial:
        yield "not all videos are evaluated here"
    yield from sorted({f"trained here: {cut}" for record in records for cut in cuts_of(record)})
    augmentations = {_augmentation(record) for record in records} - {None}
    if figure.augmentation is not None and augmentations - {figure.augmentation}:
        here = " or ".join(sorted(str(name) for name in augmentations))
        yield f"augmentation {figure.augmentation}, here {here}"


def _unknown(row: Row, figure: Figure) -> Iterator[str]:
    record = row.runs[0].record
    if figure.protocol is None:
        yield "which split is not said"
    if figure.inference is None:
        yield "how it scores is not said"
    if row.backbone.startswith("clip-") and record["model"]["pretraining_data"] != "openai":
        yield f"weights here: {record['model']['pretraining_data']}"
    if record["model"]["trainable_params"] and figure.augmentation is None:
        yield "augmentation is not said"
    if record["model"]["trainable_params"] and _augmentation(record) is None:
        yield "augmentation here is not known"
    if figure.selection not in (None, record["protocol"]["selection"]):
        yield f"epoch {figure.selection}, here {record['protocol']['selection']}"


def _augmentation(record: dict[str, Any]) -> str | None:
    """Of training clips, `none` if there is none; None if nothing says it, or nothing is trained."""
    train = training_of(record)
    if train is None or "augmentation" not in train:
        return None
    return train["augmentation"] or "none"


def _shown(value: Any) -> str:
    return "none" if value in (None, False) else "yes" if value is True else str(value)
