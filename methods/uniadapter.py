"""UniAdapter: one down-projection per layer for vision, text and their fusion, an up-projection for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, CROSS_ATTENTION, EQUAL_WIDTHS, PROJECTIONS, Need
from petl_bench.method import Method
from petl_bench.nn.layers import Bottleneck, LayerNormOption
from petl_bench.nn.mixed_precision import LayerNorm, Linear
from petl_bench.nn.transformer import Block, Context, CrossAttention, Tower, WrappedBlock
from petl_bench.ranges import Finite, Positive, Size

Init = Literal["released", "zero_up"]
FrameAware = Literal["none", "train", "both"]

FRAME_AWARE_LABELS: dict[FrameAware, list[str]] = {
    "none": ["no frame attention"],
    "train": ["frame attention in training only"],
    "both": [],
}
#: standard deviation of projections at the start that are neither zero nor Kaiming-uniform
STD = 0.02


class Start(NamedTuple):
    """Standard deviations of a layer's projections at the start.

    Attributes:
        down: of the down-projection; None is Kaiming-uniform.
        text: of the textual up-projection.
        others: of the visual and the cross-modal up-projection.
    """

    down: float | None
    text: float
    others: float


class SharedDown(nn.Module):
    """What all adapters of a layer share: h = ReLU(W_down LN(x)), and the factor on what they give.

    Args:
        width: D.
        bottleneck_dim: r.
        scale: s, or its start.
        learnable_scale: train s.
        layer_norm: `in` normalises what is read, `out` what is given, with the same norm for all modalities.
        std: of the down-projection at the start, N(0, std); None for Kaiming-uniform.
    """

    def __init__(
        self,
        width: int,
        bottleneck_dim: int,
        scale: float,
        learnable_scale: bool,
        layer_norm: LayerNormOption,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.norm_in = LayerNorm(width) if layer_norm == "in" else nn.Identity()
        self.down = Linear(width, bottleneck_dim)
        self.scale = nn.Parameter(torch.full((1,), scale)) if learnable_scale else scale
        self.norm_out = LayerNorm(width) if layer_norm == "out" else nn.Identity()
        if std is None:
            nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        else:
            nn.init.normal_(self.down.weight, std=std)
        nn.init.zeros_(self.down.bias)

    def reduce(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., r)."""
        return F.relu(self.down(self.norm_in(x)))

    def give(self, branch: Tensor) -> Tensor:
        """(..., D) -> (..., D): s times the branch."""
        return self.norm_out(branch * self.scale)


class ModalityAdapter(nn.Module):
    """The adapter of one modality, s * (W_up h + b_up) with the shared h.

    Args:
        shared: what it shares with the layer's other adapters.
        width: D.
        std: of the up-projection at the start.
    """

    def __init__(self, shared: SharedDown, width: int, std: float) -> None:
        super().__init__()
        self.shared = shared
        self.up = _up_projection(shared.down.out_features, width, std)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.shared.give(self.up(self.shared.reduce(x)))

    def fused(self, x: Tensor, cross_modal: CrossModalUp) -> Tensor:
        """The adapter of text that has read: s * LN(U_m h + U_t h), with U_t of this one. (..., D) -> (..., D)."""
        h = self.shared.reduce(x)
        return self.shared.give(cross_modal(h, self.up(h)))


class CrossModalUp(nn.Module):
    """LN(U_m h + t), where t = U_t h comes from the textual up-projection.

    The norm's gain is 1 / sqrt(eps), about 316, while both up-projections are zero (`init: zero_up`).

    Args:
        bottleneck_dim: r.
        width: D.
        std: of the up-projection at the start.
    """

    def __init__(self, bottleneck_dim: int, width: int, std: float) -> None:
        super().__init__()
        self.up = _up_projection(bottleneck_dim, width, std)
        self.norm = LayerNorm(width)

    def forward(self, h: Tensor, text: Tensor) -> Tensor:
        """(..., r), (..., D) -> (..., D)."""
        return self.norm(self.up(h) + text)


class AdaptedBlock(WrappedBlock):
    """z = Block(x) + A(a), where a is what self-attention and its residual gave: beside all that follows it."""

    token_wise = True

    def __init__(self, inner: Block, adapter: ModalityAdapter) -> None:
        super().__init__(inner)
        self.adapter = adapter

    def finish(self, x: Tensor, context: Context) -> Tensor:
        return super().finish(x, context) + self.adapter(x)


class FusionBlock(AdaptedBlock):
    """Text alone: z = FFN(a) + A_t(a). Text that reads: c = Cross(a), z = FFN(c) + A_t(a) + A_m(c).

    FFN and Cross contain their residuals and norms. A_t(a) is the query residual, carried around both.

    Args:
        inner: the native block.
        cross_attention: its cross-attention.
        adapter: A_t.
        cross_modal: what A_m has beyond A_t.
        query_residual: add A_t(a) to a text that reads.
    """

    def __init__(
        self,
        inner: Block,
        cross_attention: CrossAttention,
        adapter: ModalityAdapter,
        cross_modal: CrossModalUp,
        query_residual: bool,
    ) -> None:
        super().__init__(inner, adapter)
        # Among the parameters of the cross-attention, so that a task that fuses nothing knows them as unread.
        cross_attention.add_module("cross_modal", cross_modal)
        self.cross_modal = cross_modal
        self.query_residual = query_residual

    def finish(self, x: Tensor, context: Context) -> Tensor:
        if context.memory is None:
            return super().finish(x, context)
        y = self.cross(x, context)
        z = self.after_feed_forward(y, self.feed_forward(y, context)) + self.adapter.fused(y, self.cross_modal)
        return z + self.adapter(x) if self.query_residual else z


class KeyValueAdapters(nn.Module):
    """Bottlenecks beside the key and the value layers of a tower's cross-attention; one pair serves all layers.

    Args:
        width: D of the memory, and of the tower.
        bottleneck_dim: rank.
        init: `zero_up` starts without effect.
    """

    def __init__(self, width: int, bottleneck_dim: int, init: Init) -> None:
        super().__init__()
        self.key, self.value = (
            Bottleneck(width, bottleneck_dim, 1.0, learnable_scale=True, activation=nn.Identity()) for _ in range(2)
        )
        if init == "released":
            for layer in (self.key.down, self.key.up, self.value.down, self.value.up):
                nn.init.normal_(layer.weight, std=STD)

    def forward(self, memory: Tensor) -> Tensor:
        """(M, S, D) -> (M, S, 2D), keys first."""
        return torch.cat([self.key(memory), self.value(memory)], dim=-1)


class AdaptedKeyValue(nn.Module):
    """A frozen key-value layer plus `KeyValueAdapters`."""

    def __init__(self, native: nn.Module, adapters: KeyValueAdapters) -> None:
        super().__init__()
        self.native, self.adapters = native, adapters

    def forward(self, memory: Tensor) -> Tensor:
        """(M, S, D) -> (M, S, 2D)."""
        return self.native(memory) + self.adapters(memory)


class FrameAwareAttention(nn.Module):
    """Parameter-free: a caption scales the keys of a frame's patches by the frame's share of its attention.

    alpha = T * softmax over frames of cos(caption, frame) / temperature. [CLS] tokens and values stay as they are.

    Source: UniAdapter (Lu et al., arXiv 2302.06605), Eq. 7; the paper does not print the temperature of 4, nor that
    keys alone are scaled: both are from the official code, RERV/UniAdapter.

    Args:
        temperature: of the softmax.
        when: `train`: in training only (released); `both`: in evaluation, too.
    """

    def __init__(self, temperature: float, when: Literal["train", "both"]) -> None:
        super().__init__()
        self.temperature, self.when = temperature, when

    @torch.no_grad()
    def forward(self, text: Tensor, frames: Tensor, mask: Tensor, tokens: int) -> Tensor | None:
        """Factors on keys, (B, T, L), [CLS] first; see `Fusion.weigh_frames`."""
        if not (self.training or self.when == "both"):
            return None
        cosines = F.cosine_similarity(text[:, None], frames, dim=-1)  # (B, T)
        return key_factors(cosines, mask, tokens, self.temperature)


def key_factors(cosines: Tensor, mask: Tensor, tokens: int, temperature: float) -> Tensor:
    """alpha of each frame for its patches, 1 for its [CLS] token: (B, T, L).

    Args:
        cosines: (B, T).
        mask: (B, T) or (1, T) bool, True where a frame is real; alpha counts only those.
        tokens: L, tokens per frame.
        temperature: of the softmax.
    """
    shares = (cosines / temperature).masked_fill(~mask, float("-inf")).softmax(dim=-1)
    alpha = shares * mask.sum(dim=-1, keepdim=True)  # (B, T)
    return torch.cat([torch.ones_like(alpha)[..., None], alpha[..., None].expand(-1, -1, tokens - 1)], dim=-1)


class UniAdapter(Method):
    """UniAdapter (Lu et al., ICLR 2024, arXiv 2302.06605), on vision, text, fusion, and the answer decoder of BLIP.

    Adapters of the same layer share norm and down-projection across towers. On BLIP base they have 4,784,640
    parameters with r 128 and 18,945,024 with r 512; where there are projections and a matching head, they are trained,
    too (395,266). What serves the fusion is left out where text cannot read video (CLIP), and not trained where the
    task never fuses.

    Source: the official code, RERV/UniAdapter. That the released momentum encoder moves its adapters twice per
    step belongs to the task that has one. The released question answering also makes a second set of adapters for the
    decoder, which it never calls: here there is none.

    Args:
        bottleneck_dim: r; published: 128 and 512.
        scale: s, factor on what adapters give.
        learnable_scale: train s.
        layer_norm: of the adapters; released: `in`.
        init: projections at the start. `released`: visual and cross-modal up-projections N(0, 0.02), textual ones zero,
            down-projections Kaiming-uniform; with an answer decoder all of them N(0, 0.02), as the released question
            answering. `zero_up`: all up-projections zero, so that the outputs are the backbone's, down-projections
            Kaiming-uniform.
        query_residual: add the textual adapter of a query before its cross-attention to the fused layer's output
            (ablation of the paper).
        frame_aware: weigh the frames of a clip by their likeness to the caption that reads it, where a task matches
            both: `both` in training and evaluation, `train` as released for video (Aurora), or `none`. Question
            answering matches nothing: with an answer decoder there is no such attention.
        frame_temperature: of the softmax over frames.
        kv_lora_dim: rank of adapters beside the keys and values of cross-attention; null for none, as the paper has it.
            The released image configurations use 64.
        freeze_cross_norm: freeze the cross-modal layer norm, as a bug of the released code does.
        **kwargs: see `Method`.

    Raises:
        UsageError: for `kv_lora_dim` on a backbone without cross-attention.
    """

    def __init__(
        self,
        bottleneck_dim: Size = 128,
        scale: Finite = 0.1,
        learnable_scale: bool = False,
        layer_norm: LayerNormOption = "in",
        init: Init = "released",
        query_residual: bool = True,
        frame_aware: FrameAware = "both",
        frame_temperature: Positive = 4.0,
        kv_lora_dim: Size | None = None,
        freeze_cross_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bottleneck_dim, self.kv_lora_dim = bottleneck_dim, kv_lora_dim
        self.options: dict[str, Any] = {"scale": scale, "learnable_scale": learnable_scale, "layer_norm": layer_norm}
        self.init: Init = init
        self.query_residual = query_residual
        self.frame_aware: FrameAware = frame_aware
        self.frame_temperature = frame_temperature
        self.freeze_cross_norm = freeze_cross_norm

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # options decide
        if self.kv_lora_dim is None:
            return (BLOCKS, EQUAL_WIDTHS)
        reader = replace(CROSS_ATTENTION, what=f"{CROSS_ATTENTION.what} for kv_lora_dim (null does without)")
        return (BLOCKS, EQUAL_WIDTHS, reader)

    @property
    def identity_at_init(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # options decide
        return self.init == "zero_up"

    @property
    def label(self) -> str:
        notes = [f"r={self.bottleneck_dim}"]
        if self.backbone.answers is None:
            notes += FRAME_AWARE_LABELS[self.frame_aware]
        if not self.query_residual:
            notes.append("no query residual")
        if self.kv_lora_dim is not None:
            notes.append("K/V LoRA")
        if self.freeze_cross_norm:
            notes.append("frozen cross-modal norm")
        return f"UniAdapter ({', '.join(notes)})"

    def inject(self, backbone: Backbone) -> None:
        width = next(iter(backbone.towers.values())).width  # of all of them
        # As the released code does; what decodes answers has no heads.
        for parameter in backbone.heads() if PROJECTIONS.lack(backbone) is None else []:
            parameter.requires_grad_(True)
        towers = list(backbone.towers.values())
        start = self._start(backbone)
        for index in range(max(len(tower.blocks) for tower in towers)):
            self._adapt_layer([tower for tower in towers if index < len(tower.blocks)], index, width, start)
        if self.kv_lora_dim is not None:
            for tower in towers:
                self._adapt_key_values(tower, self.kv_lora_dim)
        if self.frame_aware != "none" and backbone.fusion is not None and backbone.answers is None:
            backbone.fusion.frame_attention = FrameAwareAttention(self.frame_temperature, self.frame_aware)

    def _start(self, backbone: Backbone) -> Start:
        if self.init == "zero_up":
            return Start(down=None, text=0.0, others=0.0)
        return Start(down=None, text=0.0, others=STD) if backbone.answers is None else Start(STD, STD, STD)

    def _adapt_layer(self, towers: list[Tower], index: int, width: int, start: Start) -> None:
        """Adapters of the layer `index` of all towers that have it."""
        shared = SharedDown(width, self.bottleneck_dim, **self.options, std=start.down)
        vision, text = (ModalityAdapter(shared, width, std) for std in (start.others, start.text))
        cross_modal = CrossModalUp(self.bottleneck_dim, width, start.others)
        cross_modal.norm.requires_grad_(not self.freeze_cross_norm)
        for tower in towers:
            block = tower.blocks[index]
            adapter = vision if "vision" in tower.reads else text
            cross_attention = block.cross_attention
            if cross_attention is None:
                tower.replace(index, AdaptedBlock(block, adapter))
            else:
                adapted = FusionBlock(block, cross_attention, adapter, cross_modal, self.query_residual)
                tower.replace(index, adapted)

    def _adapt_key_values(self, tower: Tower, bottleneck_dim: int) -> None:
        adapters = KeyValueAdapters(tower.width, bottleneck_dim, self.init)
        for block in tower.blocks:
            if (cross_attention := block.cross_attention) is not None:
                cross_attention.key_value = AdaptedKeyValue(cross_attention.key_value, adapters)


def _up_projection(bottleneck_dim: int, width: int, std: float) -> nn.Linear:
    up = Linear(bottleneck_dim, width)
    nn.init.normal_(up.weight, std=std)
    nn.init.zeros_(up.bias)
    return up
