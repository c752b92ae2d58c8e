"""Where things of a plot go: ticks of axes, and labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

#: labels of one plot; more would be a cloud of text
MOST_LABELS = 30
#: pixels between a label and anything else
_GAP = 2.0
#: where a label is tried around its point: directions from the right clockwise, each at growing distances
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1), (1, -2), (1, 2), (-1, -2), (-1, 2))
_DISTANCES = (8.0, 14.0, 22.0, 32.0, 44.0, 58.0)


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether both have a pixel in common."""
        return not (
            self.right + _GAP <= other.left
            or other.right + _GAP <= self.left
            or self.bottom + _GAP <= other.top
            or other.bottom + _GAP <= self.top
        )

    def within(self, other: Box) -> bool:
        """Whether it lies in another one."""
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )


class Axis(NamedTuple):
    """A range of values and its ticks.

    Attributes:
        ticks: with their labels.
    """

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float:
        """From 0 at the low end to 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(values: Sequence[float], around: float = 0.06, ticks: int = 5) -> Axis:
    """An axis for some values, with some room around them."""
    low, high = min(values), max(values)
    room = (high - low) * around or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room
    step = _nice((high - low) / ticks)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    places = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(low, high, False, [(place, _tick(place, decimals)) for place in places])


def log_axis(values: Sequence[float]) -> Axis:
    """An axis for positive values; ticks at 1, 2 and 5 where it spans less than two decades."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = (high - low) * 0.08 or 0.3
    low, high = low - room, high + room
    within = (1.0,) if high - low > 2.2 else (1.0, 2.0, 5.0)
    ticks = [
        (value, f"{value:g}")
        for decade in range(math.floor(low), math.ceil(high) + 1)
        for digit in within
        if low <= math.log10(value := float(f"{digit}e{decade}")) <= high
    ]
    return Axis(10**low, 10**high, True, ticks)


def place_labels(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], frame: Box, taken: Sequence[Box] = ()
) -> list[Box | None]:
    """Boxes for labels beside their points, none over another, a point, or the edge; None where there is no room.

    Args:
        points: in pixels; those named first get the better places.
        sizes: width and height of every label.
        frame: what labels must not leave.
        taken: where else no label may be.
    """
    dots = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    used = [*dots, *taken]
    found: list[Box | None] = []
    for (x, y), size in zip(points, sizes, strict=True):
        free = (box for box in _candidates(x, y, size) if box.within(frame) and not any(map(box.meets, used)))
        box = next(free, None) if sum(place is not None for place in found) < MOST_LABELS else None
        found.append(box)
        used += [box] if box else []
    return found


def boxes_along(corners: Sequence[tuple[float, float]], step: float = 6.0) -> Iterator[Box]:
    """Small boxes on the lines between some points, for labels to keep off them."""
    for (x1, y1), (x2, y2) in pairwise(corners):
        count = max(1, round(math.dist((x1, y1), (x2, y2)) / step))
        for number in range(count + 1):
            x, y = x1 + (x2 - x1) * number / count, y1 + (y2 - y1) * number / count
            yield Box(x - 1, y - 1, x + 1, y + 1)


def spread(wanted: Sequence[float], height: float, low: float, high: float) -> list[float]:
    """Places near wanted ones, in their order, at least `height` apart and within bounds if there is room."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    places = [0.0] * len(wanted)
    floor = low
    for number in order:
        places[number] = max(wanted[number], floor)
        floor = places[number] + height
    ceiling = high
    for number in reversed(order):
        places[number] = min(places[number], ceiling)
        ceiling = places[number] - height
    return places


def leader(box: Box, x: float, y: float) -> tuple[float, float] | None:
    """Where a line from a point meets its label; None if that is beside it."""
    end = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    return end if math.dist(end, (x, y)) > 10 else None


def pixels(axis: Axis, start: float, end: float) -> Callable[[float], float]:
    """From values to pixels."""
    return lambda value: start + (end - start) * axis.place(value)


def _candidates(x: float, y: float, size: tuple[float, float]) -> Iterator[Box]:
    width, height = size
    for distance in _DISTANCES:
        for right, down in _DIRECTIONS:
            across = x + right * distance if right > 0 else x - distance - width if right < 0 else x - width / 2
            middle = y + down * (distance if right == 0 else distance * 0.75) + (height / 2 * down if not right else 0)
            yield Box(across, middle - height / 2, across + width, middle + height / 2)


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * 0.999)


def _tick(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    # 2.5 between 2 and 3
    return (f"{value:.{decimals + 1}f}" if abs(float(text) - value) > 1e-9 * max(1, abs(value)) else text).replace(
        "-", "\N{MINUS SIGN}"
    )
