"""TempMe: LoRA, attention across frames, and fewer and fewer tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, CLASS_TOKEN, SINGLE_FRAMES, TOKENS_HOLD_POSITIONS, Need
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.nn.layers import LoRALinear
from petl_bench.nn.transformer import Block, Context, Tower, WrappedBlock
from petl_bench.ranges import NonNegativeCount, NonNegativeSize, ShareBelowOne, Size

#: added to attention logits of tokens of size 0; finite, so that a row of nothing else gives no NaN
_UNREAD = -1e4


#: companion of a token: how many patches it stands for, (R, L); 0 in frames that are padding. A token of size 0 is
#: never read and weighs nothing in a merge, so its content changes nothing.
SIZE = "size"


@dataclass(frozen=True)
class Plan:
    """What one block does to the tokens.

    Attributes:
        clips: clips per video that come in, if the block joins them.
        join: how many of them become one.
        cls: [CLS] tokens of one clip at the block's attention.
        before: share of the tokens to merge before attention.
        after: share (float) or number (int) of the tokens to merge after it.
        sized: whether tokens of one row can have different sizes at the attention.
    """

    clips: int
    join: int
    cls: int
    before: float
    after: float | int
    sized: bool


class MergingBlock(WrappedBlock):
    """ImgMe: y = x + Attention(LN x); merge tokens of y with similar keys; z = y + MLP(LN y).

    The attention adds log(size) to its logits. Source: LunarShen/TempMe e624930, tvr/models/module_tome_patch.py.
    """

    def __init__(self, inner: Block, plan: Plan) -> None:
        super().__init__(inner)
        self.plan = plan

    def enter(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        """What the attention reads."""
        return merge(x, context, x.detach(), self.plan.cls, self.plan.before)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.advance(x, context)[0]

    def advance(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        x, context = self.enter(x, _with_sizes(x, context))
        y, keys = self._attend(x, context, x.shape[1])
        y, context = merge(y, context, keys.detach(), self.plan.cls, self.plan.after)
        return self.after_feed_forward(y, self.feed_forward(y, context)), context

    def forward_cls(self, x: Tensor, context: Context) -> Tensor:
        """The [CLS] tokens of `forward`, (R, cls, D), which no merge after the attention reaches."""
        x, context = self.enter(x, _with_sizes(x, context))
        y, _ = self._attend(x, context, self.plan.cls)
        return self.after_feed_forward(y, self.feed_forward(y, context))

    def _attend(self, x: Tensor, context: Context, queries: int) -> tuple[Tensor, Tensor]:
        """The first `queries` tokens after attention and residual (R, Q, D), and the mean key over heads (R, L, d)."""
        q, k, v = self.attention.project(self.attention_norm(x), context.positions)
        bias = _log_size(context.companions[SIZE]).to(q.dtype) if self.plan.sized else None
        attended = nn.functional.scaled_dot_product_attention(
            q[:, :, :queries], k, v, attn_mask=bias, enable_gqa=q.shape[1] != k.shape[1]
        )
        branch = self.attention.out(rearrange(attended, "r h l d -> r l (h d)"))
        return self.after_attention(x[:, :queries], branch), k.mean(1)


class JoiningBlock(MergingBlock):
    """ClipMe: consecutive clips become one, get their position, and are merged; then as `MergingBlock`.

    Args:
        inner: the native block.
        plan: what it does.
        width: D.
        positions: give clips a trainable position, zero at the start.
    """

    def __init__(self, inner: Block, plan: Plan, width: int, positions: bool) -> None:
        super().__init__(inner, plan)
        self.positions = nn.Parameter(torch.zeros(plan.clips, width)) if positions else None

    def enter(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        plan, videos = self.plan, _mask(context).shape[0]
        x = _fill(x, videos, plan.clips)  # (B, clips, L, D)
        features = join(x.detach(), plan)  # what is similar is decided without positions
        if self.positions is not None:
            x = x + self.positions[:, None]
        joined = {name: join(_fill(part, videos, plan.clips), plan) for name, part in context.companions.items()}
        return merge(join(x, plan), replace(context, companions=joined), features, plan.cls, plan.before)


class LastBlock(WrappedBlock):
    """Gives each frame's [CLS] token back, (B*T, 1, D): the patches no longer belong to single frames."""

    inner: MergingBlock

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return _by_frame(self.inner(x, context)[:, : self.inner.plan.cls], _mask(context))

    def forward_row(self, x: Tensor, row: Tensor, context: Context) -> Tensor:
        return _by_frame(self.inner.forward_cls(x, context), _mask(context))


def join(x: Tensor, plan: Plan) -> Tensor:
    """Makes one clip of every `plan.join`: (B, clips, L, ...) -> (R, join * L, ...), all [CLS] tokens first."""
    x = rearrange(x, "b (c join) l ... -> (b c) join l ...", join=plan.join)
    parts = x.split([plan.cls // plan.join, x.shape[2] - plan.cls // plan.join], dim=2)
    return torch.cat([rearrange(part, "r join l ... -> r (join l) ...") for part in parts], dim=1)


def merge(x: Tensor, context: Context, features: Tensor, cls: int, amount: float | int) -> tuple[Tensor, Context]:
    """Bipartite soft matching: folds the tokens that have the most similar partner into their partners.

    Tokens at even places are compared with those at odd places, by the cosine of their features; the mean is
    weighted by size. [CLS] tokens take no part. The result is in the order [CLS], even ones that stay, odd ones.

    Source: LunarShen/TempMe e624930, tvr/models/module_tome_merge.py.

    Args:
        x: (R, L, D).
        context: with the sizes of the tokens.
        features: (R, L, d), what is compared.
        cls: number of [CLS] tokens.
        amount: how many tokens disappear (int), or their share of all tokens (float, rounded down); at most half of
            the patches.
    """
    size, length = context.companions[SIZE], x.shape[1]
    count = min(amount if isinstance(amount, int) else int(amount * length), (length - cls) // 2)
    if count == 0:
        return x, context
    even, odd = slice(cls + cls % 2, length, 2), slice(cls + 1 - cls % 2, length, 2)
    kept, merged, partner = _match(features[:, even], features[:, odd], size[:, even], size[:, odd], count)

    weighted = x[:, odd] * size[:, odd, None]
    weighted = weighted.scatter_add(1, _wide(partner, x), _pick(x[:, even] * size[:, even, None], merged))
    total = size[:, odd].scatter_add(1, partner, size[:, even].gather(1, merged))
    mean = (weighted / total.clamp(min=1)[..., None]).to(x.dtype)  # a real token's size is at least 1
    sizes = torch.cat([size[:, :cls], size[:, even].gather(1, kept), total], dim=1)
    context = replace(context, companions={name: part for name, part in context.companions.items() if name != SIZE})
    if context.goes_with_tokens:
        places = torch.arange(length, device=x.device).expand(x.shape[0], -1)
        context = context.keep(torch.cat([places[:, :cls], places[:, even].gather(1, kept), places[:, odd]], dim=1))
    return torch.cat([x[:, :cls], _pick(x[:, even], kept), mean], dim=1), _sized(context, sizes)


@torch.no_grad()
def _match(a: Tensor, b: Tensor, size_a: Tensor, size_b: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which of a (R, A, d) stay (R, A - count), which go (R, count), and into which of b each goes (R, count).

    Tokens of size 0 go first, and nothing real goes into one while there is another choice.
    """
    with _full_precision(a):
        similarity = _unit(a) @ _unit(b).mT  # (R, A, B)
    best, partner = similarity.masked_fill(size_b[:, None] == 0, -2).max(-1)
    order = torch.argsort(best.masked_fill(size_a == 0, 2), dim=-1, descending=True, stable=True)
    merged = order[:, :count]
    return order[:, count:].sort(-1).values, merged, partner.gather(1, merged)


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast; tensors on `meta`, where costs are counted, know none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x.float(), dim=-1)


def _wide(index: Tensor, x: Tensor) -> Tensor:
    """(R, N) -> (R, N, D), as gather and scatter want it."""
    return index[..., None].expand(-1, -1, x.shape[-1])


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """The tokens at `index` (R, N) of each row: (R, L, D) -> (R, N, D)."""
    return x.gather(1, _wide(index, x))


def _log_size(size: Tensor) -> Tensor:
    """(R, L) -> what attention adds to its logits, (R, 1, 1, L)."""
    return size.log().masked_fill(size == 0, _UNREAD)[:, None, None]


def _with_sizes(x: Tensor, context: Context) -> Context:
    """The context with the sizes of tokens of single frames (B*T, L, D), in front of the first block."""
    if SIZE in context.companions:
        return context
    return _sized(context, _mask(context).flatten()[:, None].expand(x.shape[:2]).float())


def _sized(context: Context, sizes: Tensor) -> Context:
    return replace(context, companions={**context.companions, SIZE: sizes})


def _mask(context: Context) -> Tensor:
    if context.step_mask is None:
        raise UsageError("TempMe needs a frame mask: read videos through the backbone's encode_video")
    return context.step_mask


def _fill(x: Tensor, videos: int, clips: int) -> Tensor:
    """(R, L, ...) -> (B, clips, L, ...); a video of fewer clips gets empty ones of size 0 at its end.

    Raises:
        UsageError: if a video has more.
    """
    x = x.unflatten(0, (videos, -1))
    missing = clips - x.shape[1]
    if missing < 0:
        raise UsageError(
            f"TempMe joins at most {clips} frames, a clip has {x.shape[1]}: set data.init_args.frames to {clips}, or "
            "model.init_args.join_clips to numbers whose product is the number of frames, such as [4, 4, 4] for 64"
        )
    return torch.cat([x, x.new_zeros(videos, missing, *x.shape[2:])], dim=1) if missing else x


def _by_frame(cls: Tensor, mask: Tensor) -> Tensor:
    """(R, cls, D) -> (B*T, 1, D), without the frames that only filled up."""
    videos, frames = mask.shape
    return cls.reshape(videos, -1, cls.shape[-1])[:, :frames].flatten(0, 1)[:, None]


class TempMe(Method):
    """TempMe (Shen et al., ICLR 2025, arXiv 2409.01156): LoRA in both towers, fewer tokens in the vision tower.

    Early blocks merge similar patches of a frame; `merge_layers` join consecutive clips, so that their frames
    attend to each other, and merge similar patches of the joint clip; at the end one clip holds all frames.

    Source: LunarShen/TempMe e624930, which it equals (outputs, losses, gradients, token schedules, parameter counts)
    but for two things:

    * Padded frames are never read, matched or averaged (released: they are merged into real ones). A video with fewer
      frames than the joins multiply to is filled up with such frames, so any number up to the product works, and
      padding changes nothing. The released loader gives every clip all its frames: `sampling: filled`.
    * Joined clips get their positions whether or not anything is merged before the attention (released: only if
      something is).

    Backbones that read all tokens of the vision tower (fusion) read one token per frame.

    Args:
        rank: rank of LoRA in every block of both towers; 0 for none.
        cross_frame: join clips; False keeps every frame by itself.
        merging: merge tokens; False keeps all, so that only the attention across frames is left.
        merge_layers: blocks that join clips, ascending; negative ones count from the end.
        join_clips: how many clips become one in each of them; their product is the most frames a video may have:
            [2, 2, 3] for 12 frames, [4, 4, 4] for 64.
        tokens_per_layer: patches that every block before `merge_layers` merges per frame.
        cross_clip_share: share of the joint tokens that is merged before the attention of `merge_layers`.
        in_clip_share: share that is merged after the attention there and in later blocks.
        clip_positions: give joined clips trainable positions.
        **kwargs: see `Method`.
    """

    identity_at_init = False

    def __init__(
        self,
        rank: NonNegativeSize = 8,
        cross_frame: bool = True,
        merging: bool = True,
        merge_layers: Sequence[int] = (-4, -3, -2),
        join_clips: Sequence[Size] = (2, 2, 3),
        tokens_per_layer: NonNegativeCount = 2,
        cross_clip_share: ShareBelowOne = 0.3,
        in_clip_share: ShareBelowOne = 0.1,
        clip_positions: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(merge_layers) != len(join_clips) or min(join_clips, default=1) < 2:
            raise UsageError(
                f"join_clips is {list(join_clips)} for merge_layers {list(merge_layers)}: give each of these layers "
                "one number, of at least 2"
            )
        self.rank, self.cross_frame, self.merging = rank, cross_frame, merging
        self.merge_layers, self.join_clips = list(merge_layers), list(join_clips)
        self.amounts = (tokens_per_layer, cross_clip_share, in_clip_share) if merging else (0, 0.0, 0.0)
        self.clip_positions = clip_positions

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # options decide
        changes_tokens = self.cross_frame or self.merging
        return (BLOCKS, *((CLASS_TOKEN, SINGLE_FRAMES, TOKENS_HOLD_POSITIONS) if changes_tokens else ()))

    @property
    def label(self) -> str:
        names = {
            (True, True): "TempMe",
            (True, False): "TempMe (no merging)",
            (False, True): "TempMe (frames apart)",
            (False, False): "TempMe (LoRA only)",
        }
        return names[self.cross_frame, self.merging]

    def inject(self, backbone: Backbone) -> None:
        for block in [block for tower in backbone.towers.values() for block in tower.blocks] if self.rank else []:
            place = block.linears["q"]  # and of keys and values
            assert isinstance(place.layer, nn.Linear)
            place.put(LoRALinear(place.layer, self.rank))
        for tower in backbone.encoders("vision") if self.cross_frame or self.merging else []:
            self._merge_tokens(tower)

    def _merge_tokens(self, tower: Tower) -> None:
        plans = self._plans(tower)
        for index, (block, plan) in enumerate(zip(tower.blocks, plans, strict=True)):
            joins = plan.join > 1
            new = JoiningBlock(block, plan, tower.width, self.clip_positions) if joins else MergingBlock(block, plan)
            tower.replace(index, new if index + 1 < len(plans) else LastBlock(new))

    def _plans(self, tower: Tower) -> list[Plan]:
        depth = len(tower.blocks)
        layers = [layer + depth if layer < 0 else layer for layer in self.merge_layers]
        if layers != sorted({layer for layer in layers if 0 <= layer < depth}):
            raise UsageError(f"merge_layers is {self.merge_layers}: give ascending layers from 0 to {depth - 1}")
        number, before, after = self.amounts
        clips, cls, sized, plans = math.prod(self.join_clips), 1, False, []
        for index in range(depth):
            special = index in layers
            join = self.join_clips[layers.index(index)] if special and self.cross_frame else 1
            share = before if special else 0.0
            sized = sized or join > 1 or share > 0
            cls *= join
            plans.append(Plan(clips, join, cls, share, number if index < layers[0] else after, sized))
            clips //= join
            sized = sized or self.merging
        return plans
