"""How plots and pages write names and numbers."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from petl_bench.report.cells import one_line
from petl_bench.report.model import Interval

#: as typesetters write it, where `cells` writes for programs; so are minus signs below
MISSING = "–"
#: whether a published figure may be held against ours
COMPARABLE = {"yes": "comparable", "no": "not comparable", "unknown": "not known to be comparable"}


def short(text: object, most: int = 24) -> str:
    """A name that fits a plot."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def width(text: str, size: float) -> float:
    """About how wide a line of a sans-serif font is; the font itself is the reader's."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return size * (0.57 * (len(text) - wide) + wide)


def signed(value: float, decimals: int = 1) -> str:
    """A difference; zero has no sign."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def interval(found: Interval, decimals: int = 1) -> str:
    """Both ends."""
    return f"[{found.low:.{decimals}f}, {found.high:.{decimals}f}]".replace("-", "\N{MINUS SIGN}")


def setting(value: object) -> str:
    """A value of a comparability key; digests are cut."""
    if value is None:
        return "none"
    text = one_line(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def anchor(text: str) -> str:
    """Letters, digits and `-` of a text."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def metric_title(name: str) -> str:
    """`R@1` of `R1`, `nDCG@10` of `nDCG10`."""
    return re.sub(r"^([A-Za-z]+)(\d+)$", r"\1@\2", name)


def plain(value: Any) -> str:
    """What a record or a source says, nested or not, in one line."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
