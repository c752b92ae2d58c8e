"""Blocks that several methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.nn.layers import AdaptMLP
from petl_bench.nn.transformer import Block, Context, Tower, WrappedBlock


class SequentialBlock(WrappedBlock):
    """h = MLP(LN2 y); z = y + h + A(h): the adapter reads what the feed-forward branch gives.

    Source: AdaptFormer (Chen et al., arXiv 2205.13535), `sequential` in its code; the text side of MV-Adapter's
    baselines (arXiv 2301.07868, section 5.1).
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


class PromptedBlock(WrappedBlock):
    """y = x + Attention over x and this block's own prompts, which stand behind the tokens in front of the patches.

    Deep prompting replaces the prompts in front of every block, so what a block makes of them is never read: they
    are keys and values here and reach no feed-forward layer, with the outputs of the longer sequence.

    Source: VPT-deep (Jia et al., arXiv 2203.12119).

    Args:
        inner: the native block.
        prompts: n.
        width: D.
        at: the token in front of which the prompts are inserted.
    """

    token_wise = True

    def __init__(self, inner: Block, prompts: int, width: int, at: int = 1) -> None:
        super().__init__(inner)
        self.at = at
        self.prompts = nn.Parameter(torch.empty(prompts, width))
        nn.init.normal_(self.prompts, std=0.02)

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        at, count = self.at, len(self.prompts)
        prompts = self.prompts.to(x.dtype).expand(x.shape[0], -1, -1)
        longer = torch.cat([x[:, :at], prompts, x[:, at:]], dim=1)  # (B, n + L, D)
        context = context.insert(at, count)
        if row is not None:
            return self.inner.attend(longer, context, torch.where(row >= at, row + count, row))
        y = self.inner.attend(longer, context)
        return torch.cat([y[:, :at], y[:, at + count :]], dim=1)


def add_prompts(tower: Tower, prompts: int) -> None:
    """Adds trainable prompts to every block of a tower, behind its first tokens, which are neither patches nor words.

    Args:
        tower: changed in place.
        prompts: tokens per block.
    """
    for index, block in enumerate(tower.blocks):
        tower.replace(index, PromptedBlock(block, prompts, tower.width, tower.prefix_tokens))
