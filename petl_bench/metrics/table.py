"""The figures that are measured: what each is called, in what unit it is, and whether more or less of it is better.

Whoever chooses an epoch, sorts rows, draws a difference or makes a figure bold asks here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of a whole split.

    Attributes:
        title: as columns show it, behind a direction or before a type of question where it has one.
        higher_is_better: whether more of it is.
        unit: `%`; empty of counts, ranks, and sums.
        least: that it can be.
        most: that it can be.
        decimals: that tables show.
        band: how far off a published figure may be and still count as near, if two standard deviations over seeds are
            not more.
    """

    title: str
    higher_is_better: bool = True
    unit: str = "%"
    least: float = 0.0
    most: float = 100.0
    decimals: int = 1
    band: float = 1.0


#: by name in records and logs, where a prefix says direction and split: `val_t2v_R1`
FIGURES = {
    **{f"R{k}": Figure(f"R@{k}") for k in (1, 5, 10, 50)},
    "MdR": Figure("MdR", False, "", 1.0, math.inf),
    "MnR": Figure("MnR", False, "", 1.0, math.inf),
    "rsum": Figure("Rsum", True, "", 0.0, 600.0),
    "accuracy": Figure("Accuracy"),
    "wups": Figure("WUPS@0"),
    "mean_of_types": Figure("Mean of types"),
    "mse": Figure("MSE", False, "", 0.0, 81.0, 3, 0.1),
    "mse_raw": Figure("MSE raw", False, "", 0.0, 100.0, 3, 0.1),
    "loss": Figure("loss", False, "", -math.inf, math.inf),
}
#: what the mean score of questions can be: a record has it as `accuracy`, and `score_of` says which one that is
SCORES = (FIGURES["accuracy"], FIGURES["wups"])
#: what tells of a record's figures which kind they are of, and how that is called
KINDS = {"accuracy": "accuracy", "mse": "errors"}
_DIRECTIONS = ("t2v", "v2t", "v2t_captions")
#: whatever a plug-in calls its own
_OTHER = Figure("")


def kind_of(figures: Mapping[str, object]) -> str:
    """Of the figures of a record: `accuracy` (answers and choices), `errors` (counts), or else `ranks`."""
    return next((kind for name, kind in KINDS.items() if name in figures), "ranks")


def score_of(figures: Mapping[str, object]) -> Figure:
    """Which score of questions a record has the mean of: exact matches stand beside WUPS, and only there."""
    return FIGURES["wups" if "exact_match" in figures else "accuracy"]


def in_words(figure: Figure) -> str:
    """What a sentence or the head of a list calls a score of questions: `accuracy`, `WUPS@0`."""
    return figure.title.lower() if figure is FIGURES["accuracy"] else figure.title


def figure_called(name: str) -> Figure:
    """The figure that a name in logs stands for; of one that is not known more is better."""
    known = sorted(FIGURES, key=len, reverse=True)
    return next((FIGURES[one] for one in known if re.search(rf"(^|_){one}(_|$)", name)), _OTHER)


def figure_titled(title: str) -> Figure:
    """The figure of a column: `t2v R@1`, `Accuracy what`; of one that is not known more is better, in percent."""
    known = {figure.title: figure for figure in FIGURES.values()}
    first, _, rest = title.partition(" ")  # a type of question may have the name of a figure
    return known.get(title) or known.get(rest if first in _DIRECTIONS else first) or _OTHER


def mode(name: str) -> str:
    """`max` or `min`: what Lightning's callbacks look for in a metric of this name."""
    return "max" if figure_called(name).higher_is_better else "min"
