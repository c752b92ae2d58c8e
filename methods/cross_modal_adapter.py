"""Cross-Modal Adapter: adapters in both towers that share part of their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, TEXT, VISION
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.nn.layers import QuickGELU
from petl_bench.nn.mixed_precision import Linear
from petl_bench.nn.transformer import Block, Context, WrappedBlock
from petl_bench.ranges import Size


class PartlySharedAdapter(nn.Module):
    """u + [W_unique h ; W_shared h] with h = QuickGELU(W_down u); biases everywhere.

    Args:
        width: D.
        bottleneck_dim: r.
        shared: up-projection r to d_s of the last channels, which adapters of other towers use too; d_s <= D.
    """

    def __init__(self, width: int, bottleneck_dim: int, shared: nn.Linear) -> None:
        super().__init__()
        self.down = _linear(width, bottleneck_dim)
        self.activation = QuickGELU()
        unique = width - shared.out_features
        self.unique = _linear(bottleneck_dim, unique) if unique else None  # d_s = D leaves none
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.activation(self.down(x))
        shared = self.shared(hidden)
        return x + (shared if self.unique is None else torch.cat([self.unique(hidden), shared], dim=-1))


class AdaptedBlock(WrappedBlock):
    """y = x + A_1(Attention(LN x)); z = y + A_2(MLP(LN y))."""

    token_wise = True

    def __init__(self, inner: Block, after_attention: PartlySharedAdapter, after_mlp: PartlySharedAdapter) -> None:
        super().__init__(inner)
        self.attention_adapter = after_attention
        self.mlp_adapter = after_mlp

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.attention_adapter(self.inner.attend(x, context, row))

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.mlp_adapter(self.inner.feed_forward(x, context))


def _linear(features: int, out_features: int) -> nn.Linear:
    """Released start: small truncated-normal weights (cut at 2 absolute), zero biases."""
    layer = Linear(features, out_features)
    nn.init.trunc_normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class CrossModalAdapter(Method):
    """Cross-Modal Adapter (Jiang et al., 2022, arXiv 2211.09623): partly shared adapters in vision and text blocks.

    Each block gets an adapter after its attention and one after its feed-forward layers. The last `shared_dim`
    channels of their up-projections are one and the same layer in the i-th block of both towers; towers of unequal
    depth are paired from the last block, and blocks without a partner share with none.

    The paper ranks with text-conditioned pooling of frames: task/retrieval_text_conditioned.yaml, which works with
    every method.

    Source: LeapLabTHU/Cross-Modal-Adapter 07b2203, which it equals (features, logits, loss, gradients, parameter
    counts). Of the similarities in that code two are not here, since no published number uses them: the mean of frames
    before they are normalised (`q_score` 0; here the mean is of normalised frames, as in CLIP4Clip), and scores of
    normalised features (`v_emb_norm`, `t_emb_norm`).

    Args:
        bottleneck_dim: r; published: 8 (MSR-VTT, DiDeMo), 16 (MSVD, VATEX, ActivityNet).
        shared_dim: d_s; published: 16 (MSR-VTT, MSVD), 8 (DiDeMo), 64 (VATEX), 512 (ActivityNet).
        **kwargs: see `Method`.
    """

    needs = (BLOCKS, VISION, TEXT)
    identity_at_init = False  # nearly: the start is small, not zero

    def __init__(self, bottleneck_dim: Size = 8, shared_dim: Size = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bottleneck_dim, self.shared_dim = bottleneck_dim, shared_dim

    @property
    def label(self) -> str:
        return "Cross-Modal Adapter"

    def inject(self, backbone: Backbone) -> None:
        towers = [*backbone.encoders("vision"), *backbone.encoders("text")]
        narrowest = min(tower.width for tower in towers)
        if self.shared_dim > narrowest:
            raise UsageError(f"shared_dim is {self.shared_dim}: the narrower tower of {backbone.name} has {narrowest}")
        depth = max(len(tower.blocks) for tower in towers)
        shared = [[_linear(self.bottleneck_dim, self.shared_dim) for _ in range(2)] for _ in range(depth)]
        for tower in towers:
            blocks = tower.blocks
            for index, (block, pair) in enumerate(zip(blocks, shared[depth - len(blocks) :], strict=True)):
                adapters = [PartlySharedAdapter(tower.width, self.bottleneck_dim, layer) for layer in pair]
                tower.replace(index, AdaptedBlock(block, *adapters))
