"""The recipe that a training is held against."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """A packaged configuration that a training is held against: its bare name, and the epochs it trains for."""

    name: str
    max_epochs: int
