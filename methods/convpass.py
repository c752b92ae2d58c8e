"""Convpass: a small convolution over the patches of each frame, beside attention and feed-forward."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, GRID
from petl_bench.method import Method
from petl_bench.nn.adapter_blocks import add_sequential_adapters
from petl_bench.nn.layers import LayerNormOption, QuickGELU, biases
from petl_bench.nn.mixed_precision import Linear
from petl_bench.nn.transformer import Block, Context, Tower, WrappedBlock, select_row
from petl_bench.ranges import Finite, ShareBelowOne, Size

ConvInit = Literal["identity", "xavier"]


class ConvBypass(nn.Module):
    """s * W_up(Dropout(QuickGELU(Conv3x3(QuickGELU(W_down u))))); [CLS] is convolved as an image of one pixel.

    Source: Convpass (Jie and Deng, arXiv 2207.07039) and its official code, `convpass/vtab/convpass.py`.

    Args:
        width: D.
        hidden_dim: h.
        scale: s.
        conv_init: `identity` passes each channel on at the start.
        dropout: before the up-projection, in training only.
        grid: patches per column and row.
        prefix_tokens: in front of the patches, P.
    """

    def __init__(
        self,
        width: int,
        hidden_dim: int,
        scale: float,
        conv_init: ConvInit,
        dropout: float,
        grid: tuple[int, int],
        prefix_tokens: int = 1,
    ) -> None:
        super().__init__()
        self.grid, self.prefix_tokens, self.scale = grid, prefix_tokens, scale
        self.down = Linear(width, hidden_dim)
        self.conv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1)
        self.up = Linear(hidden_dim, width)
        self.activation = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.down.weight)
        if conv_init == "identity":
            nn.init.dirac_(self.conv.weight)
        else:
            nn.init.xavier_uniform_(self.conv.weight)
        for zero in (*biases(self), self.up.weight):
            nn.init.zeros_(zero)

    def forward(self, u: Tensor) -> Tensor:
        """(R, P + H*W, D) -> (R, P + H*W, D); zero before training."""
        h = self.activation(self.down(u))  # (R, P + H*W, h)
        patches = rearrange(h[:, self.prefix_tokens :], "r (h w) c -> r c h w", h=self.grid[0])
        patches = rearrange(self.conv(patches), "r c h w -> r (h w) c")
        prefix = nn.functional.linear(h[:, : self.prefix_tokens], self.conv.weight[:, :, 1, 1], self.conv.bias)
        h = self.activation(torch.cat([prefix, patches], 1))
        return self.up(self.dropout(h)) * self.scale


class BesideAttention(WrappedBlock):
    """y = x + MHSA(LN1 x) + C(LN1 x)."""

    def __init__(self, inner: Block, adapter: ConvBypass) -> None:
        super().__init__(inner)
        self.adapter = adapter
        self.token_wise = inner.token_wise

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        bypass = self.adapter(self.attention_norm(x))
        return self.inner.attend(x, context, row) + (bypass if row is None else select_row(bypass, row))


class BesideMLP(WrappedBlock):
    """z = y + MLP(LN2 y) + C(LN2 y)."""

    def __init__(self, inner: Block, adapter: ConvBypass) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.feed_forward(x, context) + self.adapter(self.feed_forward_norm(x))


WRAPPERS = {"convpass": (BesideMLP, BesideAttention), "convpass_attn": (BesideAttention,)}
LABELS = {"convpass": "Convpass", "convpass_attn": "Convpass (attention only)"}


class Convpass(Method):
    """Convpass (Jie and Deng, arXiv 2207.07039) in the vision tower; frames do not interact.

    Two adapters per block have 327,552 parameters on CLIP ViT-B, one has 163,776. The text tower is not part of the
    paper; MV-Adapter's baseline gives it an AdaptMLP after each feed-forward branch. The released code also drops
    whole branches in training (drop path 0.1), which is left out here.

    Args:
        hidden_dim: h.
        variant: `convpass` beside attention and feed-forward, `convpass_attn` beside attention only.
        scale: s; the released code tunes it per data set, from 0.01 to 100.
        conv_init: start of the convolution; `identity` passes each channel on.
        dropout: before the up-projection, in training only.
        text_adapter: `sequential` as in MV-Adapter's baselines, or `none`.
        text_bottleneck_dim: of the text adapter.
        text_scale: factor on what the text adapter gives.
        text_layer_norm: of the text adapter.
        **kwargs: see `Method`.
    """

    needs = (BLOCKS, GRID)

    def __init__(
        self,
        hidden_dim: Size = 8,
        variant: Literal["convpass", "convpass_attn"] = "convpass",
        scale: Finite = 1.0,
        conv_init: ConvInit = "identity",
        dropout: ShareBelowOne = 0.1,
        text_adapter: Literal["none", "sequential"] = "sequential",
        text_bottleneck_dim: Size = 128,
        text_scale: Finite = 0.1,
        text_layer_norm: LayerNormOption = "in",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.variant = variant
        self.options: dict[str, Any] = {
            "hidden_dim": hidden_dim,
            "scale": scale,
            "conv_init": conv_init,
            "dropout": dropout,
        }
        self.text_adapter = text_adapter
        self.text_options: dict[str, Any] = {
            "bottleneck_dim": text_bottleneck_dim,
            "scale": text_scale,
            "layer_norm": text_layer_norm,
        }

    @property
    def label(self) -> str:
        return LABELS[self.variant]

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.encoders("vision"):
            self._adapt(tower)
        if self.text_adapter == "sequential":
            for tower in backbone.encoders("text"):
                add_sequential_adapters(tower, **self.text_options)

    def _adapt(self, tower: Tower) -> None:
        assert tower.grid is not None, "see needs"
        for index, block in enumerate(tower.blocks):
            for wrapper in WRAPPERS[self.variant]:
                adapter = ConvBypass(tower.width, grid=tower.grid, prefix_tokens=tower.prefix_tokens, **self.options)
                block = wrapper(block, adapter)
            tower.replace(index, block)
