"""Which runs a sweep has: every configuration with every seed and every point of a grid of options."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from petl_bench.errors import UsageError
from petl_bench.formats import shown

#: of `fit`, what a sweep says itself, or what would do the work of other runs anew
_OWN = {
    "--config": "give --configs",
    "-c": "give --configs",
    "--seed_everything": "give --seeds",
    "--overwrite": "a sweep goes on; petl-bench fit --overwrite true repeats one run",
    "--ckpt_path": "every run goes on from its own checkpoint",
    "--print_config": "petl-bench fit --print_config shows one configuration",
    "--help": "petl-bench sweep --help stands alone, and petl-bench fit --help explains the options of runs",
}


class Point(NamedTuple):
    """A configuration at a point of the grid: what runs share that differ in their seed alone.

    Attributes:
        config: as it was given.
        choices: options of the grid, and their values as they were written.
    """

    config: str
    choices: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.config, *(f"{key}={value}" for key, value in self.choices)])

    def arguments(self, seed: int, more: Sequence[str]) -> list[str]:
        """The command line of `petl-bench` that gives the run with a seed; options for all come before the grid's."""
        chosen = [f"--{key}={value}" for key, value in self.choices]
        return ["fit", f"--config={self.config}", f"--seed_everything={seed}", *more, *chosen]

    @property
    def slug(self) -> str:
        """The name of the configuration, for files."""
        return Path(self.config).stem


def points_of(configs: Sequence[str], grid: Sequence[str]) -> list[Point]:
    """Every configuration at every point of a grid.

    Args:
        configs: names or paths.
        grid: `key=value,value,...` of each option that varies.

    Raises:
        UsageError: naming what is no option with values.
    """
    axes = [_axis(text) for text in grid]
    keys = [key for key, _ in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UsageError(f"--grid has {twice} twice: give all its values at once")
    choices = itertools.product(*([(key, value) for value in values] for key, values in axes))
    return [Point(config, chosen) for config, chosen in itertools.product(configs, list(choices))]


def require_of_fit(options: Sequence[str], where: str = "") -> None:
    """Refuses options of `fit` that a sweep sets, and words that are no options.

    Raises:
        UsageError: saying what to give instead.
    """
    for place, option in enumerate(options):
        name = option.partition("=")[0]
        if name in _OWN:
            raise UsageError(f"{where}{name} is not for a sweep: {_OWN[name]}")
        if place == 0 and not option.startswith("-"):
            raise UsageError(
                f"sweep does not know what {shown(option)} is: petl-bench sweep --configs NAME ... --seeds 0 1"
            )


def _axis(text: str) -> tuple[str, list[str]]:
    """An option and its values; commas inside brackets and quotes part nothing, as YAML reads them."""
    key, equals, values = text.partition("=")
    key = key.removeprefix("--")
    if not (key and equals and values):
        raise UsageError(f"--grid {shown(text)}: give an option and its values, such as model.bottleneck_dim=32,64")
    require_of_fit([f"--{key}"], "--grid: ")
    listed = f"[{values}]"
    try:
        node = yaml.compose(listed, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"--grid {shown(text)}: the values are no list in YAML") from error
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    found = [listed[item.start_mark.index : item.end_mark.index] for item in items]
    if not found or not all(found):
        raise UsageError(f"--grid {shown(text)}: give values with commas in between")
    return key, list(dict.fromkeys(found))
