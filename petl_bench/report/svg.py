"""Plots as inline SVG, without any library: classes carry the colours, so the page's theme is theirs, too.

The same series give the same bytes. Every plot has a title and says in its description what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape

from petl_bench.report.figures import Forest, Lines, Plot, Point, Scatter, Shares
from petl_bench.report.labels import one_line, short, width
from petl_bench.report.placing import (
    Axis,
    Box,
    boxes_along,
    leader,
    linear_axis,
    log_axis,
    pixels,
    place_labels,
    spread,
)

_WIDTH, _HEIGHT = 520.0, 340.0
_TEXT = 11.5
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 46.0


def svg(plot: Plot, id: str) -> str:
    """A plot as an `<svg>` element.

    Args:
        plot: what is drawn.
        id: of the element, unique on its page: letters, digits and `-`.
    """
    if isinstance(plot, Scatter):
        return _scatter(plot, id)
    if isinstance(plot, Forest):
        return _forest(plot, id)
    if isinstance(plot, Lines):
        return _lines(plot, id)
    if isinstance(plot, Shares):
        return _shares(plot, id)
    raise TypeError(type(plot).__name__)


def _scatter(plot: Scatter, id: str) -> str:
    points = plot.points
    ends = [end for p in (*points, *plot.levels) for end in (p.y, p.low, p.high) if end is not None]
    across = [point.x for point in points]
    if plot.identity:
        across = ends = [*across, *ends]
    x_axis = log_axis(across) if plot.log_x else linear_axis(across)
    y_axis = linear_axis(ends)
    frame = Box(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
    x, y = pixels(x_axis, frame.left, frame.right), pixels(y_axis, frame.bottom, frame.top)
    parts = [*_axes(frame, x_axis, y_axis, plot.x_label, plot.y_label)]
    if plot.identity:
        parts.append(_line(frame.left, frame.bottom, frame.right, frame.top, "identity"))
    taken: list[Box] = []
    for level, place in zip(plot.levels, _level_places(plot.levels, y, frame), strict=True):
        text = level.level_label
        parts.append(_line(frame.left, y(level.y), frame.right, y(level.y), "level"))
        parts.append(_text(frame.right - 4, place, text, "small end muted"))
        taken.append(Box(frame.right - 6 - width(text, _TEXT), place - _TEXT, frame.right, place + 2))
    if len(plot.front) > 1:
        corners = [(x(p.x), y(p.y)) for p in plot.front]
        parts.append(f'<polyline class="front" points="{" ".join(f"{_n(a)},{_n(b)}" for a, b in corners)}"/>')
        taken += list(boxes_along(corners))
    order = plot.by_weight
    places = [(x(point.x), y(point.y)) for point in order]
    names = [short(point.label) for point in order]
    # The front's are bold.
    sizes = [
        (width(name, _TEXT * (1.12 if p.front else 1)) + 2, _TEXT + 1) for name, p in zip(names, order, strict=True)
    ]
    boxes = place_labels(places, sizes, frame, taken)
    parts += [
        _line(x(p.x), y(p.low), x(p.x), y(p.high), "whisker")
        for p in points
        if p.low is not None and p.high is not None
    ]
    for point, name, (at_x, at_y), box in zip(order, names, places, boxes, strict=True):
        if box is not None:
            parts += _label(box, at_x, at_y, name, "front-label" if point.front else "")
        parts.append(_dot(point, at_x, at_y))
    unnamed = sum(box is None for box in boxes)
    about = f"{len(points)} rows. " + "; ".join(f"{p.label}: {p.x:.4g}, {p.y:.1f}" for p in order[:30]) + "."
    if unnamed:
        parts.append(
            _text(frame.right, _HEIGHT - 4, f"{unnamed} without room for a name: point at them", "small end muted")
        )
    return _whole(plot, id, _WIDTH, _HEIGHT, about, parts)


def _level_places(levels: list[Point], y: Callable[[float], float], frame: Box) -> list[float]:
    wanted = [y(level.y) - 4 for level in levels]
    return spread(wanted, _TEXT + 2, frame.top + _TEXT, frame.bottom - 2)


def _forest(plot: Forest, id: str) -> str:
    row, top = 19.0, 8.0
    names = [short(bar.label, 30) for bar in plot.bars]
    left = 14 + max(width(name, _TEXT) for name in names)
    height = top + row * len(names) + _BOTTOM
    frame = Box(left, top, _WIDTH - 126, height - _BOTTOM)
    axis = linear_axis([0.0, *(end for bar in plot.bars for end in (bar.low, bar.high))])
    x = pixels(axis, frame.left, frame.right)
    parts = [*_x_axis(frame, axis, plot.x_label), _line(x(0.0), frame.top, x(0.0), frame.bottom, "zero")]
    for number, (bar, name) in enumerate(zip(plot.bars, names, strict=True)):
        middle = top + row * (number + 0.5)
        parts += [
            f"<g><title>{_escape(f'{bar.label}: {bar.said}')}</title>",
            _text(left - 8, middle + 4, name, "end"),
            _line(x(bar.low), middle, x(bar.high), middle, "whisker"),
            f'<rect class="{"dot front" if bar.clear else "dot hollow"}" x="{_n(x(bar.delta) - 3.5)}" '
            f'y="{_n(middle - 3.5)}" width="7" height="7"/>',
            _text(_WIDTH - 4, middle + 4, bar.said, "small end muted"),
            "</g>",
        ]
    about = "; ".join(f"{bar.label}: {bar.delta:+.1f} [{bar.low:+.1f}, {bar.high:+.1f}]" for bar in plot.bars) + "."
    return _whole(plot, id, _WIDTH, height, about, parts)


def _lines(plot: Lines, id: str) -> str:
    names = [short(line.name, 22) for line in plot.lines]
    frame = Box(_LEFT, _TOP, _WIDTH - 16 - max(width(name, _TEXT) for name in names), _HEIGHT - 60 - _BOTTOM)
    x_axis = linear_axis([step for line in plot.lines for step in line.steps], around=0.0)
    y_axis = linear_axis([value for line in plot.lines for value in line.values])
    x, y = pixels(x_axis, frame.left, frame.right), pixels(y_axis, frame.bottom, frame.top)
    parts = [*_axes(frame, x_axis, y_axis, plot.x_label, plot.y_label)]
    ends = [(x(line.steps[-1]), y(line.values[-1])) for line in plot.lines]
    places = spread([end for _, end in ends], _TEXT + 2.5, frame.top + 4, frame.bottom)
    for number, (line, name, (end_x, end_y), place) in enumerate(zip(plot.lines, names, ends, places, strict=True)):
        path = " ".join(f"{_n(x(step))},{_n(y(value))}" for step, value in zip(line.steps, line.values, strict=True))
        parts += [
            f'<g class="c{number % 8}"><title>{_escape(line.name)}</title><polyline class="curve" points="{path}"/>',
            _line(end_x + 2, end_y, frame.right + 9, place, "leader"),
            _text(frame.right + 11, place + 4, name, "colored"),
            "</g>",
        ]
    ends_of = (f"{line.name}: {line.values[0]:.4g} at first, {line.values[-1]:.4g} at last" for line in plot.lines)
    return _whole(plot, id, _WIDTH, _HEIGHT - 60, "; ".join(ends_of) + ".", parts)


def _shares(plot: Shares, id: str) -> str:
    row, left, right = 26.0, 10.0, 100.0
    names = [short(name, 30) for name, _ in plot.parts]
    left += max(width(name, _TEXT) for name in names)
    parts: list[str] = []
    for number, (name, (_, count)) in enumerate(zip(names, plot.parts, strict=True)):
        middle = 6 + row * (number + 0.5)
        length = (_WIDTH - left - right) * count / max(plot.total, 1)
        kind = ("both", "one", "other", "none")[number % 4]
        parts += [
            _text(left - 6, middle + 4, name, "end"),
            f'<rect class="share {kind}" x="{_n(left)}" y="{_n(middle - 8)}" width="{_n(length)}" height="16"/>',
            _text(left + length + 6, middle + 4, plot.said(count), "small muted"),
        ]
    about = ", ".join(f"{name}: {count}" for name, count in plot.parts) + f", of {plot.total}."
    return _whole(plot, id, _WIDTH, 12 + row * len(names), about, parts)


def _axes(frame: Box, x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> Iterator[str]:
    yield from _x_axis(frame, x_axis, x_label)
    y = pixels(y_axis, frame.bottom, frame.top)
    for value, text in y_axis.ticks:
        yield _line(frame.left, y(value), frame.right, y(value), "grid")
        yield _text(frame.left - 6, y(value) + 4, text, "small end muted")
    middle = (frame.top + frame.bottom) / 2
    yield (f'<text class="small middle" transform="translate(12 {_n(middle)}) rotate(-90)">{_escape(y_label)}</text>')


def _x_axis(frame: Box, axis: Axis, label: str) -> Iterator[str]:
    x = pixels(axis, frame.left, frame.right)
    for value, text in axis.ticks:
        yield _line(x(value), frame.top, x(value), frame.bottom, "grid")
        yield _text(x(value), frame.bottom + 15, text, "small middle muted")
    yield _line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    yield _text((frame.left + frame.right) / 2, frame.bottom + 33, label, "small middle")


def _label(box: Box, x: float, y: float, name: str, kind: str) -> Iterator[str]:
    end = leader(box, x, y)
    if end is not None:
        yield _line(x, y, *end, "leader")
    # Held at the side of its point: the reader's font may be wider or narrower than ours.
    at, anchor = (box.left + box.right) / 2, "middle"
    if box.right < x:
        at, anchor = box.right - 1, "end"
    elif box.left > x:
        at, anchor = box.left + 1, ""
    yield _text(at, box.bottom - 3, name, " ".join(filter(None, ("halo", kind, anchor))))


def _dot(point: Point, x: float, y: float) -> str:
    kind = "front" if point.front else "reference" if point.reference else ""
    kind = " ".join(filter(None, ("dot", kind, "hollow" if point.faint else "")))
    spread_of = "" if point.low is None or point.high is None else f" [{point.low:.1f}, {point.high:.1f}]"
    title = f"<title>{_escape(f'{point.label}: {point.x:.4g}, {point.y:.1f}{spread_of}')}</title>"
    if point.reference:
        return f'<rect class="{kind}" x="{_n(x - 3.8)}" y="{_n(y - 3.8)}" width="7.6" height="7.6">{title}</rect>'
    return f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="4">{title}</circle>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text{classes} x="{_n(x)}" y="{_n(y)}">{_escape(text)}</text>'


def _whole(plot: Plot, id: str, width: float, height: float, about: str, parts: Iterable[str]) -> str:
    return (
        f'<svg class="plot" role="img" viewBox="0 0 {_n(width)} {_n(height)}" aria-labelledby="{id}-t {id}-d">'
        f'<title id="{id}-t">{_escape(plot.title)}</title><desc id="{id}-d">{_escape(f"{plot.caption} {about}")}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _n(value: float) -> str:
    """A coordinate: tenths of a pixel, no sign of zero."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _escape(text: str) -> str:
    return escape(one_line(text))
