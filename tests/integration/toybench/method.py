"""A toy method."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS
from petl_bench.method import Method
from petl_bench.nn.transformer import Block, Context, WrappedBlock


class Shift(Method):
    """Learns what is added to every feed-forward branch."""

    needs = (BLOCKS,)

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.towers.values():
            for index, block in enumerate(tower.blocks):
                tower.replace(index, ShiftedBlock(block, tower.width))


class ShiftedBlock(WrappedBlock):
    """z = y + MLP(LN2 y) + b."""

    token_wise = True

    def __init__(self, inner: Block, width: int) -> None:
        super().__init__(inner)
        self.shift = nn.Parameter(torch.zeros(width))

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.feed_forward(x, context) + self.shift
