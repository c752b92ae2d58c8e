"""The recipe that a training is compared with."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """A packaged configuration that a training is compared with: its bare name, and the epochs it trains for."""

    name: str
    max_epochs: int
