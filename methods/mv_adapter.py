"""MV-Adapter: temporal adapters after the feed-forward layers of both towers, tied across modalities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, CLASS_TOKEN, STEPS, TEXT, VISION, Need
from petl_bench.configurable import Configurable
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.nn.layers import QuickGELU, biases
from petl_bench.nn.mixed_precision import LayerNorm, Linear, linear
from petl_bench.nn.transformer import Attention, Block, Context, Tower, WrappedBlock
from petl_bench.optimizers import (
    BertAdam,
    OptimizerRecipe,
    TrainableParameter,
    bert_warmup_cosine,
    parameter_groups,
)
from petl_bench.ranges import Finite, NonNegative, Positive, ShareBelowOne, Size

Position = Literal["down_in", "down_out", "up_in", "up_out"]
Components = Literal["down_up", "trm", "trm_calibration"]
Branches = Literal["both", "video", "text"]


class KroneckerLinear(nn.Module):
    """A linear layer with W = sum_i A_i (x) B_i, whose left factors A belong to several layers.

    Source: PHM layers (Compacter, Karimi Mahabadi et al., arXiv 2106.04647), with the left factors shared by the
    modalities.

    Args:
        linear: gives the shape, the bias, and the device.
        shared: A (n, n, n); n divides both widths of `linear`.
        std: standard deviation of B at the start. With A ~ N(0, 1/n), it is also that of W.
    """

    def __init__(self, linear: nn.Linear, shared: nn.Parameter, std: float) -> None:
        super().__init__()
        terms = len(shared)
        self.shared = shared
        self.own = nn.Parameter(
            linear.weight.new_empty(terms, linear.out_features // terms, linear.in_features // terms).normal_(0, std)
        )
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """W (out, in)."""
        blocks = torch.einsum("iab,irs->arbs", self.shared, self.own)
        return blocks.flatten(2).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight, self.bias)


class FactorLinear(nn.Module):
    """A linear layer whose weight is scaled per input or output channel by a projection of a shared factor.

    The factor starts at zero, so the scale starts at the projection's bias, U(+-1/sqrt(factor width)), which is
    what was released.

    Source: MV-Adapter (Jin et al., arXiv 2301.07868), section 3.4, and its official code (`modal_dynamic`).

    Args:
        linear: gives the plain weight and the bias.
        factor: f, which belongs to several layers.
        side: which channels are scaled.
    """

    def __init__(self, linear: nn.Linear, factor: nn.Parameter, side: Literal["in", "out"]) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.factor = factor
        self.side = side
        self.projection = nn.Linear(len(factor), linear.in_features if side == "in" else linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        # Not projection(factor): torch's flop counter fails on modules that read a parameter without gradient.
        scale = F.linear(self.factor, self.projection.weight, self.projection.bias)
        return F.linear(x, self.weight * (scale if self.side == "in" else scale[:, None]), self.bias)


class TRM(nn.Module):
    """One pre-norm transformer layer of the bottleneck's width, with MLP ratio 4.

    t <- t + MHA(LN t); t <- t + W_2 QuickGELU(W_1 LN t). The weights start as N(0, 1/D) (queries, keys, values) and
    N(0, 1/(2 D)), D the width of the backbone, not m.

    Source: MV-Adapter (Jin et al., arXiv 2301.07868), its official code.

    Args:
        width: m.
        heads: attention heads.
        backbone_width: D, which sets the scale of the weights at the start.
        causal: a token reads only itself and those before it.
    """

    def __init__(self, width: int, heads: int, backbone_width: int, causal: bool) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.attention.qkv = qkv = Linear(width, 3 * width)
        self.norm_2 = LayerNorm(width)
        self.fc = Linear(width, 4 * width)
        self.activation = QuickGELU()
        self.proj = Linear(4 * width, width)
        nn.init.normal_(qkv.weight, std=backbone_width**-0.5)
        for weight in (self.attention.out.weight, self.fc.weight, self.proj.weight):
            nn.init.normal_(weight, std=(2 * backbone_width) ** -0.5)
        for bias in (qkv.bias, self.attention.out.bias):
            nn.init.zeros_(bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, m) -> (B, N, m); mask as in `Attention`."""
        x = x + self.attention(self.norm_1(x), mask)
        return x + self.proj(self.activation(self.fc(self.norm_2(x))))


class SequenceMixer(nn.Module):
    """Learned positions, layer norm, TRM and activation: what both branches do between their projections.

    Args:
        length: the most tokens a sequence may have.
        width: m.
        heads: attention heads.
        backbone_width: D.
        causal: a token reads only itself and those before it.
    """

    def __init__(self, length: int, width: int, heads: int, backbone_width: int, causal: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(length, width).normal_(0, 0.01))
        self.norm = LayerNorm(width)
        self.trm = TRM(width, heads, backbone_width, causal)
        self.activation = QuickGELU()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, m) -> (B, N, m), N up to `length`."""
        x = self.norm(x + self.positions[: x.shape[1]])
        return self.activation(self.trm(x, mask))


class Calibration(nn.Module):
    """Factors on the bottleneck of each frame, from that frame and from the whole clip; all 1 at the start.

    alpha = 1 + W_b ReLU(W_a [c + p; G cc]), where c and p are the frame's [CLS] token and mean patch, cc is the clip's
    own token, and W_b starts at zero. Source: MV-Adapter (Jin et al., arXiv 2301.07868), Eq. 2, as its official code
    computes it.

    Args:
        width: m.
        hidden: width between the two layers (16 in the released code).
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.clip = Linear(width, width)
        self.reduce = Linear(2 * width, hidden)
        self.expand = Linear(hidden, width, bias=False)
        nn.init.zeros_(self.expand.weight)

    def forward(self, frames: Tensor, clip: Tensor, frame_mask: Tensor) -> Tensor:
        """Frames (B, T, m), clip (B, m), frame_mask (B, T) -> (B, T, m)."""
        clips = self.clip(clip)[:, None].expand_as(frames)
        u = torch.cat([frames, clips], -1) * frame_mask[..., None]  # (B, T, 2m)
        return 1 + self.expand(F.relu(self.reduce(u)))


class DownUp(nn.Module):
    """s * W_up QuickGELU(W_down x): what both branches are without their transformer (ablation, Table 6a).

    `down` and `up` may be replaced by tied layers. Output is exactly zero at the start.

    Args:
        width: D.
        bottleneck_dim: m.
        scale: s.
        ln_in: normalise the input.
    """

    #: True if each token is treated alone.
    token_wise = True

    down: nn.Linear | KroneckerLinear | FactorLinear
    up: nn.Linear | FactorLinear

    def __init__(self, width: int, bottleneck_dim: int, scale: float, ln_in: bool) -> None:
        super().__init__()
        self.norm_in = LayerNorm(width) if ln_in else nn.Identity()
        down, up = Linear(width, bottleneck_dim), Linear(bottleneck_dim, width)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.down = down
        self.down_std = (3 * width) ** -0.5  # of its weight: torch's own start, kaiming_uniform(a = sqrt 5)
        self.activation = QuickGELU()
        self.up = up
        self.scale = scale

    def forward(self, h: Tensor, context: Context) -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        return self.up(self.activation(self.down(self.norm_in(h)))) * self.scale


class VideoAdapter(DownUp):
    """Mixes the [CLS] tokens of a clip's frames over time; patches stay alone.

    Source: MV-Adapter (Jin et al., arXiv 2301.07868) and the released configurations of its official code (temporal
    ['c'], mean pooling of patches).

    Args:
        width: D.
        bottleneck_dim: m.
        scale: s.
        ln_in: normalise the input.
        heads: attention heads of the transformer.
        max_frames: the most frames a clip may have.
        calibration_dim: hidden width of the calibration; None leaves the calibration out (Table 6a).
    """

    token_wise = False

    def __init__(
        self,
        width: int,
        bottleneck_dim: int,
        scale: float,
        ln_in: bool,
        heads: int,
        max_frames: int,
        calibration_dim: int | None,
    ) -> None:
        super().__init__(width, bottleneck_dim, scale, ln_in)
        self.max_frames = max_frames
        self.cc = nn.Parameter(torch.randn(bottleneck_dim) * bottleneck_dim**-0.5)
        self.mixer = SequenceMixer(2 * max_frames + 1, bottleneck_dim, heads, width, causal=False)
        self.calibration = None if calibration_dim is None else Calibration(bottleneck_dim, calibration_dim)

    def forward(self, h: Tensor, context: Context) -> Tensor:
        """(B*T, 1 + P, D), [CLS] first -> (B*T, 1 + P, D).

        Raises:
            UsageError: if clips have more frames than there are positions.
        """
        _require_length("frames", context.steps, self.max_frames)
        z = self.activation(self.down(self.norm_in(h)))  # (B*T, 1 + P, m)
        cls, patches = z[:, 0], z[:, 1:]
        cls, pooled = (rearrange(part, "(b t) m -> b t m", t=context.steps) for part in (cls, patches.mean(1)))
        frame_mask = context.step_mask
        if frame_mask is None:
            frame_mask = torch.ones(cls.shape[:2], dtype=torch.bool, device=h.device)
        mixed = self.mix(cls, pooled, frame_mask)
        # A tied up-projection is for [CLS] only; patches take the plain weight.
        cls = self.up(rearrange(mixed, "b t m -> (b t) m"))[:, None]
        patches = linear(patches, self.up.weight, self.up.bias)
        return torch.cat([cls, patches], 1) * self.scale

    def mix(self, cls: Tensor, pooled: Tensor, frame_mask: Tensor) -> Tensor:
        """[CLS] of each frame after the transformer and the calibration; all (B, T, m), frame_mask (B, T)."""
        t = torch.cat([self.cc.expand(cls.shape[0], 1, -1), cls, pooled], 1)  # (B, 1 + 2T, m)
        readable = torch.cat([torch.ones_like(frame_mask[:, :1]), frame_mask, frame_mask], 1)
        cc, cls, pooled = self.mixer(t, readable[:, None, None]).split([1, cls.shape[1], cls.shape[1]], 1)
        if self.calibration is None:
            return cls
        return cls * self.calibration(cls + pooled, cc[:, 0], frame_mask)


class TextAdapter(DownUp):
    """Mixes the words of a caption; reads what the block's own attention may read, in CLIP the words before.

    The released module takes exactly `max_words` tokens. Fewer are exact where attention is causal, and where the
    rest is masked.

    Source: the official code of MV-Adapter (Jin et al., arXiv 2301.07868), `TextTransfAdapter`.

    Args:
        width: D.
        bottleneck_dim: m.
        scale: s.
        ln_in: normalise the input.
        heads: attention heads of the transformer.
        max_words: the most tokens a caption may have.
        causal: a word reads only itself and those before it.
    """

    token_wise = False

    def __init__(
        self, width: int, bottleneck_dim: int, scale: float, ln_in: bool, heads: int, max_words: int, causal: bool
    ) -> None:
        super().__init__(width, bottleneck_dim, scale, ln_in)
        self.max_words = max_words
        self.mixer = SequenceMixer(max_words, bottleneck_dim, heads, width, causal)
        self.down_std = (2 * width) ** -0.5
        nn.init.normal_(self.down.weight, std=self.down_std)

    def forward(self, h: Tensor, context: Context) -> Tensor:
        """(M, N, D) -> (M, N, D).

        Raises:
            UsageError: if captions have more tokens than there are positions.
        """
        _require_length("words", h.shape[1], self.max_words)
        z = self.down(self.norm_in(h))  # (M, N, m), no activation here
        return self.up(self.mixer(z, context.attention_mask)) * self.scale


class AdaptedBlock(WrappedBlock):
    """y = x + h + A(h) with h = MLP(LN2 x): the adapter reads what the feed-forward branch gives."""

    def __init__(self, inner: Block, adapter: DownUp) -> None:
        super().__init__(inner)
        self.adapter = adapter
        self.token_wise = adapter.token_wise

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        h = self.inner.feed_forward(x, context)
        return h + self.adapter(h, context)


class Tying(Configurable, ABC):
    """How the adapters of the two towers share parameters."""

    #: in the method's name in tables
    label: str

    @abstractmethod
    def tie(self, pairs: Sequence[tuple[DownUp, DownUp]]) -> None:
        """Ties the adapters of both towers: one pair for each layer that has a partner, from the last one on.

        Raises:
            UsageError: for options that do not fit the adapters.
        """


class Untied(Tying):
    """Nothing is shared."""

    label = "untied"

    def tie(self, pairs: Sequence[tuple[DownUp, DownUp]]) -> None:
        pass


class Kronecker(Tying):
    """Down-projections are sums of Kronecker products whose left factors the towers share, in every pair of layers.

    Args:
        terms: n, how many products are summed; divides the bottleneck's and both towers' widths.
    """

    label = "Kronecker"

    def __init__(self, terms: Size = 4) -> None:
        self.terms = terms

    def tie(self, pairs: Sequence[tuple[DownUp, DownUp]]) -> None:
        n = self.terms
        for pair in pairs:
            shared = nn.Parameter(torch.randn(n, n, n) * n**-0.5)
            for adapter in pair:
                linear = _plain(adapter.down)
                for name, width in (("bottleneck_dim", linear.out_features), ("a tower's width", linear.in_features)):
                    if width % n:
                        raise UsageError(f"tying.terms is {n}: it must divide {name} {width}")
                adapter.down = KroneckerLinear(linear, shared, adapter.down_std)


class Factor(Tying):
    """The published cross-modality tying: a shared factor scales the channels of a projection in the last layers.

    Source: Jin et al., CVPR 2024 (cross-modality tying), and the released code.

    Args:
        position: which weight the factor scales, on its input or output channels.
        layers: how many last layers are tied; published: 2, LSMDC 3, ActivityNet 1.
        dim: width of the factor.
    """

    def __init__(self, position: Position = "down_in", layers: Size = 2, dim: Size = 32) -> None:
        self.position: Position = position
        self.layers, self.dim = layers, dim

    @property
    def label(self) -> str:  # type: ignore[override]  # a constant of the others
        if self.position == "down_in":
            return "CVPR'24 factor"
        return f"CVPR'24 factor, {'-'.join(part.capitalize() for part in self.position.split('_'))}"

    def tie(self, pairs: Sequence[tuple[DownUp, DownUp]]) -> None:
        if self.layers > len(pairs):
            raise UsageError(f"tying.layers is {self.layers}: this backbone has 1 to {len(pairs)} layers to tie")
        for pair in pairs[: self.layers]:
            factor = nn.Parameter(torch.zeros(self.dim))
            for adapter in pair:
                tie_factor(adapter, factor, self.position)


class MVAdapter(Method):
    """MV-Adapter (Jin et al., CVPR 2024, arXiv 2301.07868), on both towers.

    A bottleneck follows every feed-forward layer. In the vision tower a small transformer mixes the frames of a
    clip inside the bottleneck and a calibration rescales each frame; in the text tower a transformer mixes words.
    Down-projections of both towers share parameters.

    Args:
        bottleneck_dim: m.
        tying: how the towers share parameters: `Kronecker`, `Factor` (published) or `Untied`. Only `Factor` may stand
            beside the published figures.
        tune_backbone_bias: also train all biases of the two towers, as the official training does; needed for the
            published 2.39 %.
        ln_in: layer norm before the adapters (released for ActivityNet only).
        components: what is between the projections. `trm_calibration` all, `trm` no calibration, `down_up` nothing
            but an activation (ablation, Table 6a).
        branches: which towers get adapters (ablation, Table 6b); a single one needs `tying: Untied`.
        calibration_dim: hidden width of the calibration.
        heads: attention heads of the small transformers; divides m.
        scale: s, factor on what an adapter gives.
        max_frames: the most frames a clip may have; sets the size of the positions.
        max_words: the most tokens a caption may have; sets the size of the positions.
        **kwargs: see `Method`.

    Raises:
        UsageError: for options that exclude each other, or do not fit the backbone.
    """

    def __init__(
        self,
        bottleneck_dim: Size = 64,
        tying: Tying = Kronecker(terms=4),  # noqa: B008  # which never changes
        tune_backbone_bias: bool = True,
        ln_in: bool = False,
        components: Components = "trm_calibration",
        branches: Branches = "both",
        calibration_dim: Size = 16,
        heads: Size = 2,
        scale: Finite = 0.1,
        max_frames: Size = 12,
        max_words: Size = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if branches != "both" and not isinstance(tying, Untied):
            raise UsageError(f"branches is {branches}, but tying {type(tying).__name__} joins both: set tying Untied")
        if bottleneck_dim % heads:
            raise UsageError(f"heads is {heads}: it must divide bottleneck_dim {bottleneck_dim}")
        self.tying = tying
        self.tune_backbone_bias = tune_backbone_bias
        self.components: Components = components
        self.branches: Branches = branches
        self.calibration_dim = calibration_dim
        self.heads = heads
        self.max_frames, self.max_words = max_frames, max_words
        self.options: dict[str, Any] = {"bottleneck_dim": bottleneck_dim, "scale": scale, "ln_in": ln_in}

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # options decide
        mixes_frames = self.components != "down_up" and self.branches != "text"
        return (BLOCKS, VISION, TEXT, *((CLASS_TOKEN, STEPS) if mixes_frames else ()))

    @property
    def label(self) -> str:
        notes = [self.tying.label]
        notes += {"down_up": ["Down&Up only"], "trm": ["no calibration"], "trm_calibration": []}[self.components]
        if self.branches != "both":
            notes.append(f"{self.branches} branch only")
        if self.options["ln_in"]:
            notes.append("input norm")
        if not self.tune_backbone_bias:
            notes.append("frozen biases")
        return f"MV-Adapter ({', '.join(notes)})"

    def inject(self, backbone: Backbone) -> None:
        vision, text = backbone.encoders("vision"), backbone.encoders("text")
        if self.tune_backbone_bias:  # 171,008 values in CLIP ViT-B
            for bias in biases(nn.ModuleList([*vision, *text])):
                bias.requires_grad_(True)
        video_adapters = self._adapt(vision) if self.branches != "text" else []
        text_adapters = self._adapt(text) if self.branches != "video" else []
        pairs = list(zip(reversed(video_adapters), reversed(text_adapters), strict=False))  # from the last layer on
        self.tying.tie(pairs)

    def _adapt(self, towers: Sequence[Tower]) -> list[DownUp]:
        adapters = []
        for tower in towers:
            for index, block in enumerate(tower.blocks):
                adapters.append(self._adapter(tower, block))
                tower.replace(index, AdaptedBlock(block, adapters[-1]))
        return adapters

    def _adapter(self, tower: Tower, block: Block) -> DownUp:
        if self.components == "down_up":
            return DownUp(tower.width, **self.options)
        if "vision" in tower.reads:
            calibration_dim = self.calibration_dim if self.components == "trm_calibration" else None
            return VideoAdapter(
                tower.width,
                **self.options,
                heads=self.heads,
                max_frames=self.max_frames,
                calibration_dim=calibration_dim,
            )
        return TextAdapter(
            tower.width, **self.options, heads=self.heads, max_words=self.max_words, causal=block.attention.causal
        )


def tie_factor(adapter: DownUp, factor: nn.Parameter, position: Position) -> None:
    """Lets `factor` scale a projection of `adapter` at `position`."""
    side: Literal["in", "out"] = "in" if position.endswith("in") else "out"
    if position.startswith("down"):
        adapter.down = FactorLinear(_plain(adapter.down), factor, side)
    else:
        adapter.up = FactorLinear(_plain(adapter.up), factor, side)


def _plain(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear), "already tied"
    return layer


def _require_length(what: str, given: int, limit: int) -> None:
    if given > limit:
        raise UsageError(
            f"{given} {what} given, but MVAdapter has positions for {limit}: set model.init_args.max_{what}"
        )


class OfficialMVAdapter(OptimizerRecipe):
    """The released MV-Adapter recipe: BertAdam, and a rate of its own for what is unfrozen in the backbone.

    The released code keeps weights and optimiser state in fp16, where this rate acts like a much larger one; in fp32
    or bf16-mixed it trains slowly. Source: the released code (zhangbw17/MV-Adapter at 08a61f3).

    Args:
        lr: peak learning rate of what the method added.
        pretrained_lr: peak learning rate of unfrozen backbone parameters.
        weight_decay: of all but the added biases; unfrozen biases of the backbone do decay.
        warmup: share of all steps in which the rate rises.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        clip_norm: bound on the global gradient norm per step, or null.
    """

    def __init__(
        self,
        lr: Positive = 5e-6,
        pretrained_lr: Positive = 1e-7,
        weight_decay: NonNegative = 0.2,
        warmup: ShareBelowOne = 0.1,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98),
        eps: Positive = 1e-6,
        clip_norm: NonNegative | None = 1.0,
    ) -> None:
        self.lr, self.pretrained_lr, self.weight_decay, self.warmup = lr, pretrained_lr, weight_decay, warmup
        self.betas, self.eps, self.clip_norm = betas, eps, clip_norm

    def build(self, parameters: Sequence[TrainableParameter], steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        weights = [p.parameter for p in parameters if not p.pretrained and not p.bias]
        biases = [p.parameter for p in parameters if not p.pretrained and p.bias]
        pretrained = [p.parameter for p in parameters if p.pretrained]
        groups = parameter_groups(
            (weights, {"lr": self.lr, "weight_decay": self.weight_decay}),
            (biases, {"lr": self.lr, "weight_decay": 0.0}),
            (pretrained, {"lr": self.pretrained_lr, "weight_decay": self.weight_decay}),
        )
        optimizer = BertAdam(groups, lr=self.lr, betas=self.betas, eps=self.eps)
        return optimizer, LambdaLR(optimizer, lambda step: bert_warmup_cosine(step / max(1, steps), self.warmup))
