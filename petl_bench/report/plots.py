"""The plots of the page as files, SVG and PNG, for papers and slides; drawn by matplotlib (extra `report`)."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petl_bench.report.details import Beside
from petl_bench.report.figures import Forest, Lines, Plot, Point, Scatter, Shares, plots_of
from petl_bench.report.labels import short
from petl_bench.report.model import Report
from petl_bench.report.owned import OwnedFolder, code_sha256
from petl_bench.report.placing import Box, boxes_along, leader, place_labels, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOW_TO_GET = "no plots as files: they need matplotlib (pip install 'petl-bench[report]'); the page has its own"
_INK, _MUTED, _HAIR, _ACCENT = "#1d1d1b", "#5d5c57", "#dcdad3", "#1f5a96"
_LINES = ("#1f5a96", "#a1461c", "#2e6f4c", "#7a4a93", "#8a6a0a", "#b0355e", "#26707a", "#666666")
_DPI, _WIDTH = 100, 6.4
_SETTINGS = {
    "figure.dpi": _DPI,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",  # which comes with matplotlib: files are the same on every machine
    "font.size": 8.5,
    "text.parse_math": False,  # a name may hold dollars
    "text.usetex": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": _HAIR,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.major.size": 0,
    "svg.hashsalt": "petl_bench",
    "svg.fonttype": "path",
}


def write_plots(report: Report, output: Path, beside: Beside | None = None) -> list[Path] | None:
    """Writes `<table>-<plot>.svg` and `.png` for every plot of every table; those that would not change stay.

    Args:
        report: what is shown.
        output: folder of the files; made if there is a plot.
        beside: reads what lies beside records.

    Returns:
        The files; None without matplotlib (`HOW_TO_GET` says how to get them).

    Raises:
        FileError: a file cannot be written.
    """
    if find_spec("matplotlib") is None:
        return None
    beside = beside or Beside()
    folder = OwnedFolder(output)
    rules = f"{metadata.version('matplotlib')} {code_sha256()}"
    for table in report.tables:
        for plot in plots_of(table, beside):
            made_of = hashlib.sha256(f"{rules} {plot!r}".encode(errors="replace")).hexdigest()
            # Once, and only if a file of it is wanted.
            draw = functools.cache(functools.partial(drawn, plot))
            for kind in ("svg", "png"):
                folder.put(f"{table.id}-{plot.name}.{kind}", made_of, lambda draw=draw, kind=kind: draw()[kind])
    return folder.close()


def drawn(plot: Plot) -> dict[str, bytes]:
    """A plot as the content of files, `svg` and `png`; the same series give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    found = {}
    with _settings():
        canvas = FigureCanvasAgg(_figure(plot))
        for kind, about in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            canvas.print_figure(buffer, format=kind, metadata=about)
            found[kind] = buffer.getvalue()
    return found


@contextmanager
def _settings() -> Iterator[None]:
    """Ours, whatever a user's `matplotlibrc` says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are boxes
        matplotlib.rcdefaults()
        for name, value in _SETTINGS.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]  # a literal type of all names
        yield


def _figure(plot: Plot) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = len(plot.bars) if isinstance(plot, Forest) else len(plot.parts) if isinstance(plot, Shares) else 0
    # Letters are a little wider at the resolution of the file.
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.97, 0.98))
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.21 * rows if rows else 4.2), layout=layout)
    axes: Axes = figure.add_subplot()
    axes.set_title(short(plot.title, 80), loc="left", fontsize=9.5, fontweight="bold", color=_INK)
    if isinstance(plot, Scatter):
        _scatter(axes, plot)
    elif isinstance(plot, Forest):
        _forest(axes, plot)
    elif isinstance(plot, Lines):
        _lines(axes, plot)
    elif isinstance(plot, Shares):
        _shares(axes, plot)
    else:
        raise TypeError(type(plot).__name__)
    _laid_out(figure)
    return figure


def _laid_out(figure: Figure) -> None:
    """Gives everything its place, once: what is placed by pixels afterwards stays where it is."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _scatter(axes: Axes, plot: Scatter) -> None:
    if plot.log_x:
        from matplotlib.ticker import FuncFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    for level in plot.levels:
        axes.axhline(level.y, color=_MUTED, linewidth=0.9, linestyle=(0, (5, 4)))
    whiskers = [(p.x, p.low, p.high) for p in plot.points if p.low is not None and p.high is not None]
    x, low, high = ([ends[place] for ends in whiskers] for place in range(3))
    axes.vlines(x, low, high, colors=_MUTED, alpha=0.4, linewidth=0.9, zorder=1)
    for point in plot.points:
        _point(axes, point)
    if len(plot.front) > 1:
        axes.plot([p.x for p in plot.front], [p.y for p in plot.front], color=_ACCENT, linewidth=1.1, zorder=2)
    if plot.identity:
        axes.axline((plot.points[0].x, plot.points[0].x), slope=1, color=_MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
    axes.margins(0.08)
    _name_points(axes, plot)


def _point(axes: Axes, point: Point) -> None:
    color = _ACCENT if point.front else _INK if point.reference else _MUTED
    axes.plot(
        [point.x],
        [point.y],
        marker="s" if point.reference else "o",
        markersize=5,
        color=color,
        markerfacecolor="white" if point.faint else color,
        linestyle="none",
        zorder=3,
    )


def _name_points(axes: Axes, plot: Scatter) -> None:
    """Names beside points, placed as on the page, by the sizes that they have here."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    _laid_out(figure)
    height = figure.bbox.height  # pixels; theirs count from below
    frame = axes.get_window_extent()
    place = axes.transData.transform
    order = plot.by_weight
    at = [(float(x), float(height - y)) for x, y in (place((point.x, point.y)) for point in order)]
    texts = [
        axes.text(0, 0, short(p.label), fontsize=8, color=_INK, fontweight="bold" if p.front else "normal", zorder=4)
        for p in order
    ]
    sizes = [(extent.width + 2, extent.height) for extent in (text.get_window_extent() for text in texts)]
    taken = [*boxes_along([(float(x), float(height - y)) for x, y in (place((p.x, p.y)) for p in plot.front)])]
    for level in plot.levels:
        taken.append(_name_level(axes, level, frame.x1, height))
    within = Box(frame.x0, height - frame.y1, frame.x1, height - frame.y0)
    boxes = place_labels(at, sizes, within, taken)
    back = axes.transData.inverted().transform
    for text, box, (x, y) in zip(texts, boxes, at, strict=True):
        if box is None:
            text.remove()
            continue
        left, bottom = back((box.left + 1, height - box.bottom))
        text.set_position((float(left), float(bottom)))
        text.set_verticalalignment("bottom")
        end = leader(box, x, y)
        if end is not None:
            ends: Sequence[Any] = [back((px, height - py)) for px, py in ((x, y), end)]
            axes.plot([e[0] for e in ends], [e[1] for e in ends], color=_MUTED, linewidth=0.5, zorder=1)


def _name_level(axes: Axes, level: Point, right: float, height: float) -> Box:
    text = axes.annotate(
        level.level_label,
        (1, level.y),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=_MUTED,
    )
    extent = text.get_window_extent()
    return Box(extent.x0, height - extent.y1, right, height - extent.y0)


def _forest(axes: Axes, plot: Forest) -> None:
    axes.axvline(0, color=_MUTED, linewidth=0.9)
    low, high = [bar.low for bar in plot.bars], [bar.high for bar in plot.bars]
    axes.hlines(range(len(plot.bars)), low, high, colors=_MUTED, linewidth=0.9, zorder=1)
    for place, bar in enumerate(plot.bars):
        color = _ACCENT if bar.clear else _MUTED
        axes.plot(
            [bar.delta], [place], marker="s", markersize=5, color=color, markerfacecolor=color if bar.clear else "white"
        )
        axes.annotate(
            bar.said,
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7.5,
            color=_MUTED,
        )
    axes.set_yticks(range(len(plot.bars)), [short(bar.label, 30) for bar in plot.bars], color=_INK)
    axes.set_ylim(len(plot.bars) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(plot.x_label)


def _lines(axes: Axes, plot: Lines) -> None:
    for number, line in enumerate(plot.lines):
        axes.plot(line.steps, line.values, color=_LINES[number % len(_LINES)], linewidth=1.3)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.margins(x=0.01)
    low, high = axes.get_ylim()
    places = spread([(line.values[-1] - low) / (high - low) for line in plot.lines], 0.05, 0.0, 1.0)
    for number, (line, place) in enumerate(zip(plot.lines, places, strict=True)):
        axes.annotate(
            short(line.name),
            (1.02, place),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=_LINES[number % len(_LINES)],
        )


def _shares(axes: Axes, plot: Shares) -> None:
    names = [short(name, 30) for name, _ in plot.parts]
    counts = [count for _, count in plot.parts]
    for place, (count, strength) in enumerate(zip(counts, (1.0, 0.6, 0.45, 0.25), strict=False)):
        axes.barh(place, count, height=0.62, color=_ACCENT if place < 2 else _MUTED, alpha=strength)
        axes.annotate(
            plot.said(count),
            (count, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_MUTED,
        )
    axes.set_yticks(range(len(names)), names, color=_INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max(*counts, 1))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"of {plot.total} queries")
