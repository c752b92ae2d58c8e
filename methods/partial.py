"""Partial-n: the last blocks of each tower are trained."""

from __future__ import annotations

from typing import Any

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.ranges import Size


class Partial(Method):
    """Fine-tuning of the last blocks of each tower; 10,240,256 parameters on CLIP ViT-B with one block.

    Final norms and projections stay frozen: one block of both towers has 12 D^2 + 13 D parameters each, D 768 and 512.

    Args:
        blocks: how many of each tower.
        **kwargs: see `Method`.

    Raises:
        UsageError: for a number above the depth of a tower.
    """

    needs = (BLOCKS,)

    def __init__(self, blocks: Size = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = blocks

    @property
    def label(self) -> str:
        return f"Partial-{self.blocks}"

    def inject(self, backbone: Backbone) -> None:
        for name, tower in backbone.towers.items():
            if self.blocks > len(tower.blocks):
                raise UsageError(f"model.blocks is {self.blocks}: the {name} tower has {len(tower.blocks)} blocks")
            for block in tower.blocks[-self.blocks :]:
                block.requires_grad_(True)
