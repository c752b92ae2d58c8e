"""AdaptFormer: a bottleneck beside, or after, the feed-forward layers."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from petl_bench.backbones.base import Backbone, Block, Context, WrappedBlock
from petl_bench.layers import Bottleneck
from petl_bench.method import Method

LayerNormOption = Literal["none", "in", "out"]


class Adapter(nn.Module):
    """AdaptMLP: s * W_up(Dropout(ReLU(W_down x))), with an optional layer norm before or after it.

    Source: specs/other_methods.md section 2.

    Args:
        width: D.
        bottleneck_dim: b.
        scale: s.
        learnable_scale: train s.
        layer_norm: `in` normalises what it reads, `out` what it gives.
        dropout: between ReLU and the up-projection, in training only.
    """

    def __init__(
        self,
        width: int,
        bottleneck_dim: int,
        scale: float = 0.1,
        learnable_scale: bool = False,
        layer_norm: LayerNormOption = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width) if layer_norm == "in" else nn.Identity()
        self.bottleneck = Bottleneck(width, bottleneck_dim, scale, learnable_scale, dropout=dropout)
        self.norm_out = nn.LayerNorm(width) if layer_norm == "out" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D); exactly zero before training."""
        return self.norm_out(self.bottleneck(self.norm_in(x)))


class ParallelBlock(WrappedBlock):
    """z = y + MLP(LN2 y) + A(y): the adapter reads the residual stream beside the feed-forward branch."""

    token_wise = True

    def __init__(self, inner: Block, adapter: Adapter) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.feed_forward(x, context) + self.adapter(x)


class SequentialBlock(WrappedBlock):
    """h = MLP(LN2 y); z = y + h + A(h): the adapter reads what the feed-forward branch gives."""

    token_wise = True

    def __init__(self, inner: Block, adapter: Adapter) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        h = self.inner.feed_forward(x, context)
        return h + self.adapter(h)


BLOCKS = {"parallel": ParallelBlock, "sequential": SequentialBlock}


class AdaptFormer(Method):
    """AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535), on both towers.

    Args:
        bottleneck_dim: b; 64 gives 1,189,632 parameters in the vision tower of CLIP ViT-B, 1,982,976 in both.
        mode: where the adapter sits in the vision tower.
        text_adapter: `same` as in the vision tower, `sequential` (MV-Adapter's baselines), or `none`.
        scale: factor on what the adapter gives.
        learnable_scale: train the factor.
        layer_norm: none in the released code; `in` fits the parameter count of MV-Adapter's baseline.
        dropout: released code: 0.1 for images, 0 for video.
        **kwargs: see `Method`.
    """

    def __init__(
        self,
        bottleneck_dim: int = 64,
        mode: Literal["parallel", "sequential"] = "parallel",
        text_adapter: Literal["none", "sequential", "same"] = "same",
        scale: float = 0.1,
        learnable_scale: bool = False,
        layer_norm: LayerNormOption = "none",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.modes = {"vision": mode, "text": mode if text_adapter == "same" else text_adapter}
        self.options: dict[str, Any] = {
            "bottleneck_dim": bottleneck_dim,
            "scale": scale,
            "learnable_scale": learnable_scale,
            "layer_norm": layer_norm,
            "dropout": dropout,
        }

    def inject(self, backbone: Backbone) -> None:
        for kind, tower in backbone.towers.items():
            if self.modes[kind] == "none":
                continue
            block_class = BLOCKS[self.modes[kind]]
            for index, block in enumerate(tower.blocks):
                tower.replace(index, block_class(block, Adapter(tower.width, **self.options)))
