"""ST-Adapter: a depth-wise 3-D convolution over the patches of a clip, in a bottleneck."""

from __future__ import annotations

from typing import Any, Literal

from einops import rearrange
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, GRID, STEPS
from petl_bench.method import Method
from petl_bench.nn.adapter_blocks import add_sequential_adapters
from petl_bench.nn.layers import LayerNormOption, biases
from petl_bench.nn.mixed_precision import Linear
from petl_bench.nn.transformer import Block, Context, Tower, WrappedBlock
from petl_bench.ranges import Finite, OddSize, Size

Positions = Literal["pre_attn", "pre_mlp", "pre_attn_pre_mlp"]


class SpatioTemporalAdapter(nn.Module):
    """x + W_up DWConv3d(W_down x) on the patches; [CLS], and whatever else is in front of them, passes unchanged.

    There is no activation.

    The released code has no frame mask. Here padded frames are zero before the convolution, as its own padding is,
    so what they hold changes no real frame; without padded frames both are equal.

    Source: ST-Adapter (Pan et al., arXiv 2206.13559), its official code.

    Args:
        width: D.
        bottleneck_dim: c.
        kernel_size: extent in time, height and width; odd.
        grid: patches per column and row.
        prefix_tokens: in front of the patches, P.
    """

    def __init__(
        self,
        width: int,
        bottleneck_dim: int,
        kernel_size: tuple[int, int, int],
        grid: tuple[int, int],
        prefix_tokens: int = 1,
    ) -> None:
        super().__init__()
        self.grid, self.prefix_tokens = grid, prefix_tokens
        self.down = Linear(width, bottleneck_dim)
        padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
        self.conv = nn.Conv3d(bottleneck_dim, bottleneck_dim, kernel_size, padding=padding, groups=bottleneck_dim)
        self.up = Linear(bottleneck_dim, width)
        for zero in (*biases(self), self.conv.weight):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B*T, P + H*W, D) -> (B*T, P + H*W, D), T steps; x itself before training."""
        h = self.down(x[:, self.prefix_tokens :])  # (B*T, H*W, c)
        if context.step_mask is not None:
            h = h * context.step_mask.flatten()[:, None, None].to(h.dtype)
        h = self.conv(rearrange(h, "(b t) (h w) c -> b c t h w", t=context.steps, h=self.grid[0]))
        h = self.up(rearrange(h, "b c t h w -> (b t) (h w) c"))  # (B*T, H*W, D)
        return x + nn.functional.pad(h, (0, 0, self.prefix_tokens, 0))


class BeforeAttention(WrappedBlock):
    """The whole block reads A(x) in the place of x, on its residual stream too."""

    def __init__(self, inner: Block, adapter: SpatioTemporalAdapter) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner(self.adapter(x, context), context)

    def forward_row(self, x: Tensor, row: Tensor, context: Context) -> Tensor:
        return self.inner.forward_row(self.adapter(x, context), row, context)


class BeforeMLP(WrappedBlock):
    """y = x + MHSA(LN1 x); y' = A(y); z = y' + MLP(LN2 y')."""

    def __init__(self, inner: Block, adapter: SpatioTemporalAdapter) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = self.adapter(self.after_attention(x, self.attend(x, context)), context)
        return self.after_feed_forward(y, self.feed_forward(y, context))


#: innermost first
WRAPPERS = {
    "pre_attn": (BeforeAttention,),
    "pre_mlp": (BeforeMLP,),
    "pre_attn_pre_mlp": (BeforeMLP, BeforeAttention),
}
LABELS = {
    "pre_attn": "ST-Adapter",
    "pre_mlp": "ST-Adapter (before MLP)",
    "pre_attn_pre_mlp": "ST-Adapter (before attention and MLP)",
}


class STAdapter(Method):
    """ST-Adapter (Pan et al., NeurIPS 2022, arXiv 2206.13559) in the vision tower.

    One adapter per block has 7,110,144 parameters on CLIP ViT-B, two have 14,220,288. The text tower is not part of
    the paper; MV-Adapter's baseline gives it an AdaptMLP after each feed-forward branch.

    Args:
        bottleneck_dim: c.
        kernel_size: extent of the convolution in time, height and width; odd.
        positions: `pre_attn` at the start of each block (MV-Adapter's baseline), `pre_mlp` between attention and
            feed-forward (released "12x384"), or both (released "24x384"). The adapter before the last feed-forward
            reaches patches only: where the task reads [CLS] alone, as CLIP retrieval does, its gradient is zero, in
            the released code too.
        text_adapter: `sequential` as in MV-Adapter's baselines, or `none`.
        text_bottleneck_dim: of the text adapter; 128 and `text_layer_norm: in` fit the parameter count of
            MV-Adapter's baseline (which trains CLIP's biases besides).
        text_scale: factor on what the text adapter gives.
        text_layer_norm: of the text adapter.
        **kwargs: see `Method`.

    """

    needs = (BLOCKS, GRID, STEPS)

    def __init__(
        self,
        bottleneck_dim: Size = 384,
        kernel_size: tuple[OddSize, OddSize, OddSize] = (3, 1, 1),
        positions: Positions = "pre_attn",
        text_adapter: Literal["none", "sequential"] = "sequential",
        text_bottleneck_dim: Size = 128,
        text_scale: Finite = 0.1,
        text_layer_norm: LayerNormOption = "in",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bottleneck_dim, self.kernel_size, self.positions = bottleneck_dim, kernel_size, positions
        self.text_adapter = text_adapter
        self.text_options: dict[str, Any] = {
            "bottleneck_dim": text_bottleneck_dim,
            "scale": text_scale,
            "layer_norm": text_layer_norm,
        }

    @property
    def label(self) -> str:
        return LABELS[self.positions]

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.encoders("vision"):
            self._adapt(tower)
        if self.text_adapter == "sequential":
            for tower in backbone.encoders("text"):
                add_sequential_adapters(tower, **self.text_options)

    def _adapt(self, tower: Tower) -> None:
        assert tower.grid is not None, "see needs"
        for index, block in enumerate(tower.blocks):
            for wrapper in WRAPPERS[self.positions]:
                adapter = SpatioTemporalAdapter(
                    tower.width, self.bottleneck_dim, self.kernel_size, tower.grid, tower.prefix_tokens
                )
                block = wrapper(block, adapter)
            tower.replace(index, block)
