"""How numbers and values are printed."""

from __future__ import annotations

import math
from typing import Any

#: digits that a cost shows at least
SIGNIFICANT = 3


def decimals_of(value: float, least: int) -> int:
    """Decimals with which a cost is printed: `least`, or as many as its first digits need; zero needs none more."""
    if not value:
        return least
    return max(least, SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))


def number(value: float, least: int = 2) -> str:
    """A cost as text: those of small models are small numbers, and no zeros."""
    return f"{value:.{decimals_of(value, least)}f}"


def shown(value: Any, most: int = 60) -> str:
    """A value in a message: however long it is, one line tells enough of it."""
    text = " ".join(str(value).split()) or repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
