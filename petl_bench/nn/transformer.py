"""Transformer layers that methods can change: blocks seen as branches, towers whose blocks can be replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from petl_bench.nn import recomputation
from petl_bench.nn.recomputation import Recomputation, recomputed


class Memory(NamedTuple):
    """What cross-attention reads.

    Attributes:
        tokens: (M, S, D), one for each of B rows that read; M is 1 where all of them read the same, and anything where
            `rows` says which of them each row reads. Keys and values are computed once for each of the M.
        mask: (B, S) or (1, S) bool, True where a token may be read.
        key_scale: factor on keys, (B, S) or (1, S); None for 1.
        rows: (B,) which of the M each row reads; None where M is B or 1.
    """

    tokens: Tensor
    mask: Tensor
    key_scale: Tensor | None = None
    rows: Tensor | None = None

    def select(self, rows: Tensor | slice) -> Memory:
        """What some of the rows read.

        Indices (B,), which may repeat, copy no tokens; a slice drops those that are not read.
        """
        mask, scale = self.mask[rows], None if self.key_scale is None else self.key_scale[rows]
        if self.rows is not None:
            return Memory(self.tokens, mask, scale, self.rows[rows])
        if isinstance(rows, Tensor):
            return Memory(self.tokens, mask, scale, rows)
        return Memory(self.tokens[rows], mask, scale)


T = TypeVar("T")

#: what a tower can read
Modality = Literal["vision", "text"]
#: what a linear layer of a block does; `up`, `gate` and `down` are those of the feed-forward branch
Role = Literal["q", "k", "v", "out", "up", "gate", "down"]


@dataclass(frozen=True)
class Context:
    """What a block may need beyond its tokens.

    Attributes:
        steps: S, rows of a vision tower for each clip, (B * S, L, D), clip after clip: a row holds the tokens of
            `Tower.frames_per_row` frames.
        step_mask: (B, S) bool, True where a step has a real frame; None in towers that read no video.
        attention_mask: bool, broadcastable to (rows, heads, queries, keys), True where a key may be read.
        positions: rotary angles of the tokens, (rows or 1, L, d / 2), of which attention takes sine and cosine; None
            where tokens hold their positions.
        companions: what else goes with each token, by name, (rows or 1, L, ...).
        memory: what cross-attention reads; None where a text is encoded alone, and in towers without cross-attention.
    """

    steps: int = 1
    step_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    positions: Tensor | None = None
    companions: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Memory | None = None

    @property
    def goes_with_tokens(self) -> bool:
        """Whether it holds anything that goes with single tokens."""
        return self.attention_mask is not None or self.positions is not None or bool(self.companions)

    def insert(self, at: int, count: int) -> Context:
        """The context with so many tokens more, in front of the one at `at`.

        Every token may read them, they are not rotated, and their companions are zero.
        """
        mask = self.attention_mask
        for dim in (-2, -1):
            if mask is not None and mask.shape[dim] > 1:  # else it is the same for all
                mask = _inserted(mask, dim, at, count, 1)
        return replace(
            self,
            attention_mask=mask,
            positions=None if self.positions is None else _inserted(self.positions, 1, at, count, 0),
            companions={name: _inserted(values, 1, at, count, 0) for name, values in self.companions.items()},
        )

    def keep(self, index: Tensor) -> Context:
        """The context of some tokens, those at `index` (rows, K) of each row, in this order."""
        mask = self.attention_mask
        if mask is not None:
            if mask.shape[-1] > 1:
                mask = _taken(mask, -1, index[:, None, None])
            if mask.shape[-2] > 1:
                mask = _taken(mask, -2, index[:, None, :, None])
        return replace(
            self,
            attention_mask=mask,
            positions=None if self.positions is None else _kept(self.positions, index),
            companions={name: _kept(values, index) for name, values in self.companions.items()},
        )


def _inserted(values: Tensor, dim: int, at: int, count: int, value: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = count
    before, after = values.tensor_split([at], dim)
    return torch.cat([before, values.new_full(shape, value), after], dim)


def _kept(values: Tensor, index: Tensor) -> Tensor:
    """(rows or 1, L, ...), (rows, K) -> (rows, K, ...)."""
    values = values.expand(index.shape[0], *values.shape[1:])
    return values[torch.arange(index.shape[0], device=index.device)[:, None], index]


def _taken(mask: Tensor, dim: int, index: Tensor) -> Tensor:
    """A mask (rows or 1, heads or 1, queries, keys) at places of a dimension, the same for all heads."""
    rows, heads = index.shape[0], mask.shape[1]
    shape = [rows, heads, *mask.shape[2:]]
    wanted = [rows, heads, *mask.shape[2:]]
    wanted[dim] = index.shape[dim]
    return mask.expand(shape).gather(dim, index.expand(wanted))


class Place(NamedTuple):
    """Where a linear layer of a block is; one layer of queries, keys and values has several roles.

    Attributes:
        owner: the module that has it.
        name: of its attribute.
    """

    owner: nn.Module
    name: str

    @property
    def layer(self) -> nn.Module:
        """What stands there."""
        return getattr(self.owner, self.name)

    def put(self, layer: nn.Module) -> None:
        """Puts another layer there."""
        setattr(self.owner, self.name, layer)


def select_row(x: Tensor, row: Tensor) -> Tensor:
    """The `row`-th token of each sequence: (B, L, D), (B,) -> (B, 1, D)."""
    return x[torch.arange(x.shape[0], device=x.device), row][:, None]


class Block(nn.Module, ABC):
    """One transformer layer, seen as branches and what joins them to the residual stream.

    `forward` is the layer: self-attention, cross-attention where there is something to read, feed-forward. A method
    overrides a branch (or `forward`) in a `WrappedBlock`, so that its equation can be read there, for pre-norm and
    post-norm layers alike.
    """

    #: True if everything after the attention treats each token alone, so that one token can be computed alone.
    token_wise: bool = False
    #: of a native block, whether `activated` is computed again in the backward pass
    recomputes_activation: bool = False

    @abstractmethod
    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        """Self-attention branch before its residual; with `row` (B,) only that query: (B, 1, D)."""

    def cross_attend(self, x: Tensor, context: Context) -> Tensor | None:
        """Cross-attention branch before its residual, (B, L, D); None where there is nothing to read."""
        return None

    @abstractmethod
    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        """Feed-forward branch before its residual. (B, L, D) -> (B, L, D)."""

    def activated(self, layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What a native feed-forward branch computes of x up to its activation, recomputed where it is set so."""
        # Where x has no gradient, nothing trained comes before it, and nothing of a frozen branch would be kept.
        return recomputed(layers, x) if self.recomputes_activation and x.requires_grad else layers(x)

    @abstractmethod
    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        """Joins the attention branch to the residual stream."""

    def after_cross_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        """Joins the cross-attention branch to the residual stream."""
        return x + branch

    @abstractmethod
    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Joins the feed-forward branch to the residual stream."""

    @abstractmethod
    def attention_norm(self, x: Tensor) -> Tensor:
        """What the attention branch reads: LN1(x) in a pre-norm block, x in a post-norm block."""

    @abstractmethod
    def feed_forward_norm(self, x: Tensor) -> Tensor:
        """What the feed-forward branch reads: LN2(x) in a pre-norm block, x in a post-norm block."""

    @property
    @abstractmethod
    def attention(self) -> Attention:
        """The native attention, for methods that change its layers."""

    @property
    def cross_attention(self) -> CrossAttention | None:
        """The native cross-attention, if the layer has one."""
        return None

    @property
    @abstractmethod
    def linears(self) -> dict[Role, Place]:
        """The native linear layers by what they do; those of the cross-attention are not among them."""

    @property
    @abstractmethod
    def norms(self) -> list[nn.Module]:
        """All native norms, whatever they compute."""

    def cross(self, x: Tensor, context: Context) -> Tensor:
        """Cross-attention with its residual; x itself where there is nothing to read. (B, L, D) -> (B, L, D)."""
        branch = self.cross_attend(x, context)
        return x if branch is None else self.after_cross_attention(x, branch)

    def finish(self, x: Tensor, context: Context) -> Tensor:
        """What follows self-attention and its residual. (B, L, D) -> (B, L, D)."""
        y = self.cross(x, context)
        return self.after_feed_forward(y, self.feed_forward(y, context))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The whole layer. (B, L, D) -> (B, L, D)."""
        return self.finish(self.after_attention(x, self.attend(x, context)), context)

    def advance(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        """`forward(x)`, and the context of the next block: another one where this one changes its tokens."""
        return self(x, context), context

    def forward_row(self, x: Tensor, row: Tensor, context: Context) -> Tensor:
        """`forward(x)` at one token of each sequence, (B, 1, D); nothing else is computed where that is exact."""
        if not self.token_wise:
            return select_row(self(x, context), row)
        return self.finish(self.after_attention(select_row(x, row), self.attend(x, context, row)), context)


class WrappedBlock(Block):
    """A block that behaves like `inner`; methods override the branch they change."""

    def __init__(self, inner: Block) -> None:
        super().__init__()
        self.inner = inner

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.inner.attend(x, context, row)

    def cross_attend(self, x: Tensor, context: Context) -> Tensor | None:
        return self.inner.cross_attend(x, context)

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.feed_forward(x, context)

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.inner.after_attention(x, branch)

    def after_cross_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.inner.after_cross_attention(x, branch)

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.inner.after_feed_forward(x, branch)

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.inner.attention_norm(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.inner.feed_forward_norm(x)

    @property
    def attention(self) -> Attention:
        return self.inner.attention

    @property
    def cross_attention(self) -> CrossAttention | None:
        return self.inner.cross_attention

    @property
    def linears(self) -> dict[Role, Place]:
        return self.inner.linears

    @property
    def norms(self) -> list[nn.Module]:
        return self.inner.norms


class PreNormBlock(Block):
    """y = x + Attention(LN1 x); z = y + MLP(LN2 y), with two linear layers in the MLP.

    Args:
        attention: self-attention.
        ln_1: LN1.
        ln_2: LN2.
        fc: first layer of the MLP.
        activation: between the layers.
        proj: second layer of the MLP.
    """

    token_wise = True

    def __init__(
        self,
        attention: Attention,
        ln_1: nn.Module,
        ln_2: nn.Module,
        fc: nn.Linear,
        activation: nn.Module,
        proj: nn.Linear,
    ) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = ln_1, ln_2
        self.self_attention = attention
        self.fc, self.activation, self.proj = fc, activation, proj

    @property
    def attention(self) -> Attention:
        return self.self_attention

    @property
    def linears(self) -> dict[Role, Place]:
        feed_forward: dict[Role, Place] = {"up": Place(self, "fc"), "down": Place(self, "proj")}
        return self.self_attention.linears | feed_forward

    @property
    def norms(self) -> list[nn.Module]:
        return [self.ln_1, self.ln_2]

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.ln_1(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.ln_2(x)

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.self_attention(self.ln_1(x), context.attention_mask, row, context.positions)

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.proj(self.activated(lambda x: self.activation(self.fc(self.ln_2(x))), x))

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch


class Widths(NamedTuple):
    """Outputs of the three parts of a qkv layer."""

    q: int
    k: int
    v: int


class Attention(nn.Module):
    """Multi-head self-attention on contiguous (B, L, D): one qkv layer, SDPA, one output layer.

    A stock frozen `nn.MultiheadAttention` is 1.7x slower on a CPU, and offers no place for LoRA.

    Args:
        width: D.
        heads: number of heads; divides D.
        causal: a token reads only itself and those before it.
        dropout: of attention weights, in training only.
        key_value_heads: heads of keys and values, each of which several heads of queries share; None for as many.
        bias: of both layers.

    Attributes:
        widths: of queries, keys and values, which stand in this order in what `qkv` gives.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = False,
        dropout: float = 0.0,
        key_value_heads: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_value_heads = heads if key_value_heads is None else key_value_heads
        self.causal = causal
        self.dropout = dropout
        narrow = width // heads * self.key_value_heads
        self.widths = Widths(width, narrow, narrow)
        self.qkv: nn.Module = nn.Linear(width, sum(self.widths), bias)
        self.out = nn.Linear(width, width, bias)

    @property
    def linears(self) -> dict[Role, Place]:
        """The linear layers by what they do."""
        fused = Place(self, "qkv")  # whose parts have `widths`
        return {"q": fused, "k": fused, "v": fused, "out": Place(self, "out")}

    def project(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, heads, L, d), keys and values (B, key_value_heads, L, d), the first two turned by `positions`."""
        heads = (self.heads, self.key_value_heads, self.key_value_heads)
        q, k, v = rearrange(self.qkv(x), "b l (h d) -> b h l d", h=sum(heads)).split(heads, dim=1)
        return (q, k, v) if positions is None else (rotated(q, positions), rotated(k, positions), v)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, row: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Attention of all tokens, (B, L, D), or of the query at `row` only, (B, 1, D).

        Args:
            x: (B, L, D).
            mask: bool, broadcastable to (B, heads, queries, L), True where a key may be read; None: all.
            row: (B,) index of the only query.
            positions: rotary angles, as `Context.positions`.
        """
        q, k, v = self.project(x, positions)
        if row is not None:
            q = q[torch.arange(x.shape[0], device=x.device), :, row][:, :, None]  # (B, H, 1, d)
            if self.causal:
                mask = _and(mask, (torch.arange(x.shape[1], device=x.device) <= row[:, None])[:, None, None])
        elif self.causal and mask is not None:
            mask = mask & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        causal, grouped = self.causal and mask is None, self.key_value_heads != self.heads
        if (dropout := self.dropout if self.training else 0.0) or _keeps_what_it_reads(self.out):
            attended = nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout, enable_gqa=grouped
            )
        else:
            attended = recomputation.attention(q, k, v, mask, causal, grouped)
        return self.out(rearrange(attended, "b h l d -> b l (h d)"))


def _keeps_what_it_reads(layer: nn.Module) -> bool:
    """Whether a linear layer, or what a method put in its place, needs its input for a gradient."""
    return any(parameter.requires_grad and parameter.ndim > 1 for parameter in layer.parameters())


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (Su et al., arXiv 2104.09864): channel i of d is turned with channel i + d / 2.

    Args:
        x: (B, H, L, d).
        angles: (B or 1, L, d / 2).
    """
    cos, sin = (function(angles)[:, None].to(x.dtype) for function in (torch.cos, torch.sin))
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (B, L, D) to a `Memory`: one query layer, one key-value layer, SDPA, output.

    Args:
        width: D.
        memory_width: width of the memory's tokens.
        heads: number of heads; divides D.
        dropout: of attention weights, in training only.
    """

    def __init__(self, width: int, memory_width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query: nn.Module = nn.Linear(width, width)
        self.key_value: nn.Module = nn.Linear(memory_width, 2 * width)
        self.out = nn.Linear(width, width)

    def project_memory(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Keys and values of each row, (B or 1, heads, S, D / heads)."""
        kv = self.key_value(memory.tokens)
        if memory.rows is not None:
            kv = kv.index_select(0, memory.rows)
        k, v = rearrange(kv, "m s (two h d) -> two m h s d", two=2, h=self.heads).unbind(0)
        return (k if memory.key_scale is None else k * memory.key_scale[:, None, :, None].to(k.dtype)), v

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        q = rearrange(self.query(x), "b l (h d) -> b h l d", h=self.heads)
        k, v = (tensor.expand(x.shape[0], -1, -1, -1) for tensor in self.project_memory(memory))
        dropout = self.dropout if self.training else 0.0
        mask = memory.mask[:, None, None]
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(rearrange(attended, "b h l d -> b l (h d)"))


def _and(mask: Tensor | None, other: Tensor) -> Tensor:
    return other if mask is None else mask & other


class Tower(nn.Module):
    """A stack of blocks, and what stands in front of, between and behind them.

    Attributes:
        reads: `vision`, `text`, or both, where one tower reads frames and words together.
        encodes: False for one that writes answers instead.
        width: D.
        frames_per_row: of a tower that reads video: how many consecutive frames are one row; None where all are.
        prefix_tokens: tokens in front of those of the grid, or of the words: [CLS], start, registers.
        class_token: whether the first one is a token of its own that features are read at, one for each row.
        grid: patches per column and row, which stand row by row behind the prefix; None where there is none.
        positions: how tokens know their places: they hold `learned` ones, `rotary` ones stand in the context.
        checkpointing: recompute blocks in the backward pass, see `set_recomputation`.
    """

    reads: ClassVar[frozenset[Modality]]
    encodes: ClassVar[bool] = True
    frames_per_row: int | None = 1
    prefix_tokens: int = 1
    class_token: bool = True
    positions: Literal["none", "learned", "rotary"] = "learned"

    def __init__(self, blocks: Sequence[Block], width: int, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.stack = nn.ModuleList(blocks)
        self.width = width
        self.grid = grid
        self.checkpointing = False

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, first to last."""
        return tuple(block for block in self.stack if isinstance(block, Block))

    def replace(self, index: int, block: Block) -> None:
        """Puts `block` in the place of the one at `index`."""
        self.stack[index] = block

    def outer_norms(self) -> list[nn.Module]:
        """The norms in front of and behind the blocks."""
        return []

    def norms(self) -> list[nn.Module]:
        """All norms, those of blocks first."""
        return [*(norm for block in self.blocks for norm in block.norms), *self.outer_norms()]

    def run(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        """All blocks: (B, L, D) -> (B, L, D); with `row` (B,) only that token of the last block: (B, 1, D)."""
        *first, last = self.blocks
        for block in first:
            x, context = self._call(block.advance, x, context)
        if row is None:
            return self._call(last.advance, x, context)[0]
        return self._call(last.forward_row, x, row, context)

    def set_recomputation(self, what: Recomputation) -> None:
        """Sets what the backward pass computes again instead of keeping it: blocks, their activations, or nothing."""
        self.checkpointing = what is True
        for module in self.modules():
            if isinstance(module, Block):
                module.recomputes_activation = what == "activations"

    def _call(self, function: Callable[..., T], *args: object) -> T:
        return recomputed(function, *args) if self.checkpointing else function(*args)
