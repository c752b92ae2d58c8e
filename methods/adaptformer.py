"""AdaptFormer: a bottleneck beside, or after, the feed-forward layers."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS
from petl_bench.method import Method
from petl_bench.nn.adapter_blocks import SequentialBlock
from petl_bench.nn.layers import AdaptMLP, LayerNormOption
from petl_bench.nn.transformer import Block, Context, WrappedBlock
from petl_bench.ranges import Finite, ShareBelowOne, Size


class ParallelBlock(WrappedBlock):
    """z = y + MLP(LN2 y) + A(y): the adapter reads the residual stream beside the feed-forward branch."""

    token_wise = True

    def __init__(self, inner: Block, adapter: AdaptMLP) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.feed_forward(x, context) + self.adapter(x)


WRAPPERS = {"parallel": ParallelBlock, "sequential": SequentialBlock}


class AdaptFormer(Method):
    """AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535), on both towers.

    Args:
        bottleneck_dim: b; 64 gives 1,189,632 parameters in the vision tower of CLIP ViT-B, 1,982,976 in both.
        mode: where the adapter sits in the vision tower.
        text_adapter: `same` as in the vision tower, `sequential` (MV-Adapter's baselines), or `none`; in a decoder of
            answers, too.
        scale: factor on what the adapter gives.
        learnable_scale: train the factor.
        layer_norm: none in the released code; `in` fits the parameter count of MV-Adapter's baseline.
        dropout: released code: 0.1 for images, 0 for video.
        **kwargs: see `Method`.
    """

    needs = (BLOCKS,)

    def __init__(
        self,
        bottleneck_dim: Size = 64,
        mode: Literal["parallel", "sequential"] = "parallel",
        text_adapter: Literal["none", "sequential", "same"] = "same",
        scale: Finite = 0.1,
        learnable_scale: bool = False,
        layer_norm: LayerNormOption = "none",
        dropout: ShareBelowOne = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mode, self.text_mode = mode, mode if text_adapter == "same" else text_adapter
        self.options: dict[str, Any] = {
            "bottleneck_dim": bottleneck_dim,
            "scale": scale,
            "learnable_scale": learnable_scale,
            "layer_norm": layer_norm,
            "dropout": dropout,
        }

    @property
    def label(self) -> str:
        return "AdaptFormer" if self.mode == "parallel" else "AdaptFormer (sequential)"

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.towers.values():
            mode = self.mode if "vision" in tower.reads else self.text_mode
            if mode == "none":
                continue
            block_class = WRAPPERS[mode]
            for index, block in enumerate(tower.blocks):
                tower.replace(index, block_class(block, AdaptMLP(tower.width, **self.options)))
