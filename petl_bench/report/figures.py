"""What plots show, as numbers: the pages' SVG and matplotlib's files draw these and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from petl_bench.metrics.table import FIGURES
from petl_bench.report.best import leading
from petl_bench.report.details import Beside, Curve
from petl_bench.report.labels import one_line, short, signed
from petl_bench.report.model import Column, Row, Table, Value
from petl_bench.report.tables import PINNED_METHODS, pin_of

#: what a plot has room for; the rest is in the table
MOST_BARS, MOST_LINES = 40, 8


@dataclass(frozen=True)
class Point:
    """A row in a plane.

    Attributes:
        low: the lower end of the 95 % interval, or mean - sd where there is none; None without both.
        reference: full fine-tuning, zero-shot, linear.
        front: no other row is as good in both and better in one.
        faint: shown, but no figure to compare with: of a partial test, or what is not known to be comparable.
    """

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    reference: bool = False
    front: bool = False
    faint: bool = False

    @property
    def level_label(self) -> str:
        """Its name where it is drawn as a level, with the figure that no axis tells."""
        return short(f"{self.label} {self.y:.1f}")


@dataclass(frozen=True)
class Plot:
    """What every plot has.

    Attributes:
        name: for files.
        title: of the plot.
        caption: what is to be seen, a sentence or two.
    """

    name: str
    title: str
    caption: str


@dataclass(frozen=True)
class Scatter(Plot):
    """Rows in a plane.

    Attributes:
        levels: rows that have no place on a logarithmic axis, such as those without trainable parameters.
        identity: whether x = y is drawn.
    """

    x_label: str
    y_label: str
    points: list[Point]
    log_x: bool = False
    levels: list[Point] = field(default_factory=list)
    identity: bool = False

    @property
    def front(self) -> list[Point]:
        """The rows that no other beats in both, along the line that joins them."""
        return sorted((point for point in self.points if point.front), key=lambda point: (point.x, point.y))

    @property
    def by_weight(self) -> list[Point]:
        """What others are held against, and what beats all others, is named first."""
        return sorted(
            self.points,
            key=lambda point: (not (point.front or point.reference), 0.0 if self.identity else -point.y, point.label),
        )


@dataclass(frozen=True)
class Bar:
    """A difference with its interval; `clear` if it is distinguishable from none."""

    label: str
    delta: float
    low: float
    high: float
    clear: bool

    @property
    def said(self) -> str:
        """The difference and both ends."""
        return f"{signed(self.delta)} [{signed(self.low)}, {signed(self.high)}]"


@dataclass(frozen=True)
class Forest(Plot):
    """Differences to one row."""

    x_label: str
    bars: list[Bar]


@dataclass(frozen=True)
class Lines(Plot):
    """Curves over steps."""

    x_label: str
    y_label: str
    lines: list[Curve]


@dataclass(frozen=True)
class Shares(Plot):
    """Queries that two rows get right: `parts` are labels and counts that add up to `total`."""

    parts: list[tuple[str, int]]
    total: int

    def said(self, count: int) -> str:
        """A part and how much of all it is."""
        return f"{count} ({100 * count / max(self.total, 1):.1f} %)"


#: when a query is right, by the main column
_RIGHT = {
    "Accuracy": "answered right",
    "Mean of types": "answered right",
    "WUPS@0": "answered with a score above one half",
    "MSE": "counted exactly",
}
#: what is logged of validation, by the main column
_VALIDATED = {
    "Accuracy": "val_accuracy",
    "Mean of types": "val_mean_of_types",
    "WUPS@0": "val_accuracy",
    "MSE": "val_mse",
}


def plots_of(table: Table, beside: Beside) -> list[Plot]:
    """The plots of a table that have something to show."""
    column = table.main_column
    costs = (
        (
            "parameters",
            "Trainable M",
            f"{column.title} against trainable parameters",
            "trainable parameters (millions)",
        ),
        ("memory", "Peak GB", f"{column.title} against peak memory", "peak memory (GB)"),
        ("size", "Adapter MB", f"{column.title} against adapter size", "adapter on disk (MB)"),
    )
    found = [
        *(_against_cost(table, column, *cost) for cost in costs),
        _forest(table, column),
        _measured_and_published(table, column),
        _learning(table, column, beside),
        _overlap(table, column, beside),
    ]
    return [plot for plot in found if plot is not None]


def is_reference(row: Row) -> bool:
    """Whether a row is one that others are held against."""
    return pin_of(row.method) < len(PINNED_METHODS)


def label_of(column: Column) -> str:
    """A column with its unit, for an axis."""
    unit = f" ({column.unit})" if column.unit else ""
    return f"{column.title}{unit}"


def curve_lines(curves: Sequence[Curve], name: str, title: str, caption: str, y_label: str) -> Lines | None:
    """Curves of one run; None if there are none."""
    lines = [curve for curve in curves if curve.steps]
    return Lines(name, title, caption, "step", y_label, lines) if lines else None


def _against_cost(table: Table, column: Column, name: str, cost: str, title: str, x_label: str) -> Scatter | None:
    placed = [
        (row, x.mean, y) for row in table.rows if (x := row.values.get(cost)) and (y := row.values.get(column.title))
    ]
    on_axis = [(row, x, y) for row, x, y in placed if x > 0]
    if not on_axis:
        return None
    whole = [(row.config_hash, x, y.mean) for row, x, y in on_axis if not row.partial]
    places = _front([(x, _up(column) * y) for _, x, y in whole])
    front = {whole[place][0] for place in places}
    points = [_point(row, x, y, front=row.config_hash in front) for row, x, y in on_axis]
    return Scatter(
        name,
        title,
        "The line joins the rows that no other beats in both. Whiskers: 95 % interval, else ± sd over seeds."
        + (" Dashed: nothing to train or keep." if len(placed) > len(on_axis) else "")
        + (" Hollow: a partial test, not on the line." if any(row.partial for row, _, _ in on_axis) else ""),
        x_label,
        label_of(column),
        points,
        log_x=name != "memory",
        levels=[_point(row, x, y) for row, x, y in placed if x <= 0],
    )


def _front(places: list[tuple[float, float]]) -> set[int]:
    """The rows that cost less than all that are as good; of each what it costs and how good it is."""
    front: set[int] = set()
    best: float | None = None
    for number in sorted(range(len(places)), key=lambda n: (places[n][0], -places[n][1])):
        quality = places[number][1]
        if best is None or quality > best:
            best = quality
            front.add(number)
    return front


def _point(row: Row, x: float, y: Value, front: bool = False) -> Point:
    low, high = _spread(y)
    return Point(one_line(row.name), x, y.mean, low, high, is_reference(row), front, faint=row.partial)


def _spread(value: Value) -> tuple[float | None, float | None]:
    if value.interval is not None:
        return value.interval.low, value.interval.high
    return (None, None) if value.sd is None else (value.mean - value.sd, value.mean + value.sd)


def _forest(table: Table, column: Column) -> Forest | None:
    found = [(row, difference) for row in table.rows if (difference := row.from_full.get(column.title)) is not None]
    if not found:
        return None
    found.sort(key=lambda pair: (-_up(column) * pair[1].delta, pair[0].name))
    bars = [
        Bar(one_line(row.name), d.delta, d.interval.low, d.interval.high, d.distinguishable)
        for row, d in found[:MOST_BARS]
    ]
    return Forest(
        "forest",
        "Difference to full fine-tuning",
        "Paired on the same queries, 95 % interval. Filled: p ≤ 0.05 (Holm, over the rows) and the interval without 0."
        + _of(MOST_BARS, len(found), "rows"),
        f"{column.title}, difference in {'points' if column.unit == '%' else 'value'}",
        bars,
    )


def _measured_and_published(table: Table, column: Column) -> Scatter | None:
    points = []
    for row in table.rows:
        published, value = row.published.get(column.title), row.values.get(column.title)
        if published is not None and value is not None:
            points.append(replace(_point(row, published.value, value), faint=published.comparable != "yes"))
    if not points:
        return None
    return Scatter(
        "published",
        "Measured against published",
        "On the line both are equal. Hollow: not comparable, or not known to be.",
        f"published {label_of(column)}",
        f"measured {label_of(column)}",
        points,
        identity=True,
    )


def _learning(table: Table, column: Column, beside: Beside) -> Lines | None:
    """Of the best rows: what is validated on where that was done, else the loss."""
    known = [(row, value) for row in table.rows if (value := row.values.get(column.title)) is not None]
    known.sort(key=lambda pair: (-_up(column) * pair[1].mean, pair[0].name))
    logged = _VALIDATED.get(column.title)
    validated = ("val_t2v_R1", "val_rsum") if logged is None else (logged,)
    for names, y_label in ((validated, f"validation {label_of(column)}"), (("loss",), "training loss")):
        lines: list[Curve] = []
        for row, _ in known:
            if len(lines) == MOST_LINES:
                break
            curve = _first_of(names, beside.curves(row.runs[0]))
            if curve is not None and len(curve.steps) > 1:
                lines.append(replace(curve, name=one_line(row.name)))
        if lines:
            caption = "First seed of each row." + _of(MOST_LINES, len(known), "rows, best first")
            return Lines("curves", "Learning curves", caption, "step", y_label, lines)
    return None


def _first_of(names: Sequence[str], curves: Sequence[Curve]) -> Curve | None:
    return next((curve for name in names for curve in curves if curve.name == name), None)


def _overlap(table: Table, column: Column, beside: Beside) -> Shares | None:
    """The best row against full fine-tuning, or another reference."""
    first = next(iter(leading(table.rows, column)), None)
    second = next((row for row in table.rows if is_reference(row) and not row.partial and row is not first), None)
    if first is None or second is None:
        return None
    found = beside.overlap(first.runs[0], second.runs[0])
    if found is None:
        return None
    a, b = one_line(first.name), one_line(second.name)
    right = _RIGHT.get(column.title, "with the target on rank 1")
    return Shares(
        "overlap",
        f"Queries in common: {a} and {b}" if column.title == FIGURES["wups"].title else f"Queries right: {a} and {b}",
        f"Queries {right}, first seed of each: the best row against the first reference.",
        [("both", found.both), (f"only {a}", found.only_a), (f"only {b}", found.only_b), ("neither", found.neither)],
        found.total,
    )


def _up(column: Column) -> int:
    """By which a figure is multiplied so that more is better."""
    return -1 if column.higher_is_better is False else 1


def _of(most: int, all_of_them: int, what: str) -> str:
    return f" {most} of {all_of_them} {what}." if all_of_them > most else ""
