"""Measured rows beside published figures: what may be compared, and which recipes reproduce what was published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from petl_bench.metrics.table import figure_titled
from petl_bench.report.groups import grouped
from petl_bench.report.marks import cuts_of, training_of
from petl_bench.report.model import Interval, PublishedFigure, Row, Table, Value
from petl_bench.report.published import TITLES, Figure, Recipe, published
from petl_bench.report.recipes import departures
from petl_bench.storage.dotted import get

TRAINABLE_TOLERANCE = 0.1
"""Share by which counts of trainable parameters may differ: what is counted (heads, biases) does."""
NOT_RUN, NO_RECIPE, NOT_COMPARABLE = "not run", "no recipe", "not comparable"
_ORDER = ("yes", "unknown", "no")
_DECIMALS = 6
"""To which figures are compared: 16.1 is 1.0 above 15.1."""
_ALTOGETHER_UNKNOWN = "training unknown"


class Comparison(NamedTuple):
    """Whether a row may be held against a figure: `yes`, `no` or `unknown`, and what stands in the way."""

    comparable: str
    why: str


class _Match(NamedTuple):
    """A row that is our version of what a figure is of."""

    figure: Figure
    row: Row
    table: Table
    comparison: Comparison


def with_published(tables: list[Table]) -> tuple[list[Table], list[dict[str, Any]]]:
    """Fills `published` and `state` of rows.

    Returns:
        The tables, and every published figure as a plain mapping with the state of its recipe.
    """
    figures = published().figures
    of_figures = [_matches(figure, tables) for figure in figures]
    of_rows = grouped((match for found in of_figures for match in found), lambda match: _name(match.row, match.table))
    filled = [
        replace(table, rows=[_filled(row, table, of_rows.get(_name(row, table), [])) for row in table.rows])
        for table in tables
    ]
    return filled, [_listed(figure, found) for figure, found in zip(figures, of_figures, strict=True)]


def state_of(value: Value, figure: float, comparable: str, title: str = "") -> str:
    """How a measured figure stands to a published one: `reproduced`, `within band`, `off` or `not comparable`."""
    if comparable == "no":
        return NOT_COMPARABLE
    if value.interval is not None and _rounded(value.interval.low) <= figure <= _rounded(value.interval.high):
        return "reproduced"
    off, band = abs(value.mean - figure), max(figure_titled(title).band, 2 * (value.sd or 0.0))
    return "within band" if _rounded(off) <= _rounded(band) else "off"


def _rounded(value: float) -> float:
    return round(value, _DECIMALS)


def matches(row: Row, table: Table, figure: Figure) -> bool:
    """Whether a row is our version of what a figure is of. What is made up is nobody's."""
    if table.fixture or table.dataset != figure.dataset:
        return False
    return any(_is(row, published().recipes[name]) for name in figure.recipes)


def compare(row: Row, table: Table, figure: Figure, tables: Sequence[Table] = ()) -> Comparison:
    """Holds the evaluation, the size and the training of a row against what is known of a figure.

    What is known to differ makes it `no`; what one of both does not say, `unknown`.

    Args:
        row: of ours.
        table: that it stands in.
        figure: one that it matches.
        tables: all of the report, which may disagree about the split.
    """
    trained = departures(row.runs, figure.recipes)
    differences = [*_differences(row, table, figure), *trained.known]
    if differences:
        return Comparison("no", "; ".join(differences))
    unknown = [*_unknown(row, figure), *_unknown_split(row, table, tables), *trained.unknown]
    return Comparison("unknown" if unknown else "yes", "; ".join(unknown))


def _is(row: Row, recipe: Recipe) -> bool:
    config = row.runs[0].record["model"]["method_config"]
    same_options = all(get(config, name) == value for name, value in recipe.options.items())
    return row.method == recipe.method and _plain(row.backbone) == recipe.backbone and same_options


def _plain(backbone: str) -> str:
    """open_clip tells OpenAI's models by their activation."""
    return backbone.removesuffix("-quickgelu")


def _matches(figure: Figure, tables: Sequence[Table]) -> list[_Match]:
    return [
        _Match(figure, row, table, compare(row, table, figure, tables))
        for table in tables
        for row in table.rows
        if matches(row, table, figure)
    ]


def _name(row: Row, table: Table) -> tuple[str, str]:
    return table.id, row.config_hash


def _filled(row: Row, table: Table, matching: list[_Match]) -> Row:
    found: dict[str, PublishedFigure] = {}
    for match in sorted(matching, key=lambda match: _ORDER.index(match.comparison.comparable)):
        for title, value in _by_title(match.figure):
            if title in row.values:
                found.setdefault(title, _beside(row.values[title], value, match.figure, match.comparison))
    main = found.get(table.main)
    value = row.values[table.main]
    if main is None or value is None:
        return replace(row, published=found)
    doubt = main.why if main.comparable == "unknown" else ""
    return replace(row, published=found, state=state_of(value, main.value, main.comparable, table.main), doubt=doubt)


def _by_title(figure: Figure) -> Iterator[tuple[str, float]]:
    for metric, value in figure.metrics.items():
        if (figure.direction, metric) in TITLES:
            yield TITLES[figure.direction, metric], value


def _beside(ours: Value | None, value: float, figure: Figure, comparison: Comparison) -> PublishedFigure:
    difference = None if ours is None else ours.mean - value
    ends = ours.interval if ours is not None else None
    apart = None if ends is None else Interval(ends.low - value, ends.high - value)
    return PublishedFigure(value, figure.source, figure.where, difference, *comparison, apart)


def _listed(figure: Figure, matching: list[_Match]) -> dict[str, Any]:
    """A figure and how our version of it did; of several the one that is most fairly compared, whatever it scored."""
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
    if not matching:
        return plain
    _, row, table, comparison = min(matching, key=_order)
    return plain | {
        "state": _state(row, figure, comparison),
        "comparable": comparison.comparable,
        "why": comparison.why,
        "table": table.id,
        "row": row.name,
    }


def _order(match: _Match) -> tuple[int, bool, int, str, str]:
    """Comparable ones first, whole trainings before those that were cut, many seeds before few. Never by the score."""
    _, row, table, comparison = match
    cut = any(cuts_of(run.record) for run in row.runs)
    return _ORDER.index(comparison.comparable), cut, -len(row.runs), row.config_hash, table.id


def _state(row: Row, figure: Figure, comparison: Comparison) -> str:
    """By the first of its metrics that the row has, too."""
    for title, value in _by_title(figure):
        if (ours := row.values.get(title)) is not None:
            return state_of(ours, value, comparison.comparable, title)
    return NOT_COMPARABLE


def _differences(row: Row, table: Table, figure: Figure) -> Iterator[str]:
    protocol = row.runs[0].record["protocol"]
    ours = table.protocol.partition("/")[0]
    if figure.protocol not in (None, ours):
        yield f"protocol {figure.protocol}, here {ours}"
    inference, preprocess = protocol["inference"], protocol["preprocess"]
    for name, value in (figure.inference or {}).items():
        if name in inference and inference[name] != value:
            yield f"{name} {_shown(value)}, here {_shown(inference[name])}"
    for name, value, here in (
        ("frames", figure.frames, preprocess.get("frames")),
        ("pixels", figure.pixels, preprocess.get("image_size")),
    ):
        if value is not None and here is not None and value != here:
            yield f"{value} {name}, here {here}"
    if (quality := preprocess.get("jpeg_quality")) is not None:
        yield f"frames here are JPEG of quality {quality}"
    yield from _other_selection(figure.selection, protocol["selection"])
    yield from _other_size(row, figure)
    yield from _other_training(row, figure)


def _other_selection(theirs: str | None, ours: str) -> Iterator[str]:
    """A figure of the epoch that was best on test is one of another kind, whatever else is equal."""
    if theirs in (None, ours):
        return
    yield f"the paper chose the epoch on test, here {ours}" if theirs == "best-test" else f"epoch {theirs}, here {ours}"


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
    if not all(record["model"]["trainable_params"] for record in records):
        yield "nothing is trained here"
    cuts = {cut for record in records for cut in cuts_of(record)} - {_ALTOGETHER_UNKNOWN}
    yield from (f"trained here: {cut}" for cut in sorted(cuts))
    augmentations = {_augmentation(record) for record in records} - {None}
    if figure.augmentation is not None and augmentations - {figure.augmentation}:
        here = " or ".join(sorted(str(name) for name in augmentations))
        yield f"augmentation {figure.augmentation}, here {here}"


def _unknown(row: Row, figure: Figure) -> Iterator[str]:
    facts = {
        "which split": figure.protocol,
        "how it scores": figure.inference,
        "the number of frames": figure.frames,
        "the number of pixels": figure.pixels,
        "the choice of the epoch": figure.selection,
        "how much is trained": figure.trainable,
        "augmentation": figure.augmentation,
    }
    records = [run.record for run in row.runs]
    here = records[0]["protocol"]
    if _is_of_images(here["preprocess"]):
        del facts["the number of frames"]
    yield from (f"{fact} is not said" for fact, value in facts.items() if value is None)
    ours = {
        **{name: name in here["inference"] for name in figure.inference or {}},
        "frames": here["preprocess"].get("frames") is not None,
        "pixels": here["preprocess"].get("image_size") is not None,
        "training": not any(_ALTOGETHER_UNKNOWN in cuts_of(record) for record in records),
        "augmentation": all(_augmentation(record) is not None for record in records),
    }
    yield from (f"{name} here is not known" for name, known in ours.items() if not known)
    if row.backbone.startswith("clip-") and records[0]["model"]["pretraining_data"] != "openai":
        yield f"weights here: {records[0]['model']['pretraining_data']}"


def _is_of_images(preprocess: dict[str, Any]) -> bool:
    """Of which there is one frame, and no rate."""
    return preprocess.get("frames") == 1 and preprocess.get("frame_rate") is None


def _unknown_split(row: Row, table: Table, tables: Sequence[Table]) -> Iterator[str]:
    protocols = [run.record["protocol"] for run in row.runs]
    if any(None in (protocol["n_found"], protocol["n_expected"]) for protocol in protocols):
        yield "how many videos the split has is not known here"
    same = [one for one in tables if (one.fixture, one.dataset, one.protocol) == (False, table.dataset, table.protocol)]
    if len({dict(one.key)["protocol.split_sha256"] for one in same}) > 1:
        yield "runs here have different files of this split"


def _augmentation(record: dict[str, Any]) -> str | None:
    """Of training clips, `none` if there is none; None if nothing says it, or nothing is trained."""
    train = training_of(record)
    if train is None or "augmentation" not in train:
        return None
    return train["augmentation"] or "none"


def _shown(value: Any) -> str:
    return "none" if value in (None, False) else "yes" if value is True else str(value)
