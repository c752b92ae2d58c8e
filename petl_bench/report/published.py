"""Published figures, of the packaged table `published.yaml`: facts that were entered by hand, each with its source."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from petl_bench.metrics.table import FIGURES
from petl_bench.report.columns import OF_DIRECTION

DIRECTIONS = ("t2v", "v2t", "answers")
TITLES = {
    **{
        (direction, metric): f"{direction} {title}"
        for direction in ("t2v", "v2t")
        for metric, title in OF_DIRECTION.items()
    },
    **{("answers", metric): FIGURES[metric].title for metric in ("accuracy", "mse")},
}
"""The column of a table that shows a metric of a direction."""

_SHARED = ("backbone", "dataset", "protocol", "augmentation", "frames", "pixels", "inference", "selection")
_COSTS = ("trainable", "seeds", "gflops", "memory", "throughput", "hours")
_TRAINABLE = re.compile(r"([\d.]+) ([%M])")


class Source(NamedTuple):
    """Where figures come from.

    Attributes:
        citation: what it is.
        url: where to look; None if nothing of it is public under an address of its own.
        read: how its figures came here: `table`, `image`, `digitised`, `abstract`, `README`, `third party` or `data`.
    """

    citation: str
    url: str | None
    read: str


class Recipe(NamedTuple):
    """What records of runs of a packaged configuration say, as far as its published version tells it from others."""

    method: str
    backbone: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """What a source states of one method, dataset and direction; None of what it does not say.

    Attributes:
        recipes: packaged configurations that are our version of it.
        direction: `t2v` (also from text to images), `v2t` or `answers`.
        metrics: R1, R5, R10, R50, accuracy and sum in percent; MdR, MnR, mse.
        sd: over seeds, of R1, R5 and R10.
        costs: as printed: `trainable` (`2.39 %`, `0.5 M`), `seeds`, `gflops`, `memory`, `throughput`, `hours`.
        inference: settings of ours that are known of it, by their names in a record.
    """

    source: str
    where: str
    method: str
    recipes: tuple[str, ...]
    backbone: str | None
    dataset: str
    protocol: str | None
    direction: str
    metrics: dict[str, float]
    sd: tuple[float, ...] = ()
    costs: dict[str, Any] = field(default_factory=dict)
    augmentation: str | None = None
    frames: int | None = None
    pixels: int | None = None
    inference: dict[str, Any] | None = None
    selection: str | None = None
    remarks: str = ""

    @property
    def trainable(self) -> tuple[float, str] | None:
        """A number and `%` of the model or `M` parameters; None if the source has none, or only about."""
        found = _TRAINABLE.fullmatch(self.costs.get("trainable", ""))
        return (float(found[1]), found[2]) if found else None


class Published(NamedTuple):
    """All of the packaged table, in its order."""

    sources: dict[str, Source]
    recipes: dict[str, Recipe]
    figures: tuple[Figure, ...]


@functools.cache
def published() -> Published:
    """The packaged table."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    # Five times as fast, and the same.
    loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return Published(
        {name: Source(**source) for name, source in loaded["sources"].items()},
        {name: Recipe(**{"options": {}, **recipe}) for name, recipe in loaded["recipes"].items()},
        tuple(figure for table in loaded["tables"] for entry in table["figures"] for figure in _figures(table, entry)),
    )


def _figures(table: dict[str, Any], entry: dict[str, Any]) -> list[Figure]:
    remarks = [part["remarks"] for part in (table, entry) if "remarks" in part]
    return [
        Figure(
            source=table["source"],
            where=table["where"],
            method=entry["method"],
            recipes=tuple(entry.get("recipes", ())),
            direction=direction,
            metrics={name: value for name, value in entry[direction].items() if name != "sd"},
            sd=tuple(entry[direction].get("sd", ())),
            costs={name: entry[name] for name in _COSTS if name in entry},
            remarks="; ".join(remarks),
            **{name: table[name] for name in _SHARED if name in table},
        )
        for direction in DIRECTIONS
        if direction in entry
    ]
