"""Blocks that several methods share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from petl_bench.backbones.base import Block, Context, Tower, WrappedBlock
from petl_bench.layers import AdaptMLP


class SequentialBlock(WrappedBlock):
    """h = MLP(LN2 y); z = y + h + A(h): the adapter reads what the feed-forward branch gives.

    Source: specs/other_methods.md section 2; the text side of MV-Adapter's baselines (specs/mv_adapter.md section 8).
    """

    token_wise = True

    def __init__(self, inner: Block, adapter: nn.Module) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        h = self.inner.feed_forward(x, context)
        return h + self.adapter(h)


def add_sequential_adapters(tower: Tower, **options: Any) -> None:
    """An `AdaptMLP` with these options after the feed-forward layers of each block of a tower."""
    for index, block in enumerate(tower.blocks):
        tower.replace(index, SequentialBlock(block, AdaptMLP(tower.width, **options)))
