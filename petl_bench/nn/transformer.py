"""Transformer layers that methods can change: blocks seen as branches, towers whose blocks can be replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Memory(NamedTuple):
    """What cross-attention reads.

    Attributes:
        tokens: (B, S, D), or (1, S, D) where all rows read the same, whose keys and values are then computed once.
        mask: (B, S) or (1, S) bool, True where a token may be read.
        key_scale: factor on keys, (B, S) or (1, S); None for 1.
    """

    tokens: Tensor
    mask: Tensor
    key_scale: Tensor | None = None

    def select(self, rows: Tensor | slice) -> Memory:
        """What some of the rows read."""
        return Memory(*(None if part is None else part[rows] for part in self))


@dataclass(frozen=True)
class Context:
    """What a block may need beyond its tokens.

    Attributes:
        frames: T; rows of a vision tower are (B*T, L, D), clip after clip.
        frame_mask: (B, T) bool, True where a frame is real; None in text towers.
        attention_mask: bool, broadcastable to (rows, heads, queries, keys), True where a key may be read.
        memory: what cross-attention reads; None where a text is encoded alone, and in towers without cross-attention.
    """

    frames: int = 1
    frame_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    memory: Memory | None = None


def select_row(x: Tensor, row: Tensor) -> Tensor:
    """The `row`-th token of each sequence: (B, L, D), (B,) -> (B, 1, D)."""
    return x[torch.arange(len(x), device=x.device), row][:, None]


class Block(nn.Module, ABC):
    """One transformer layer, seen as branches and what joins them to the residual stream.

    `forward` is the layer: self-attention, cross-attention where there is something to read, feed-forward. A method
    overrides a branch (or `forward`) in a `WrappedBlock`, so that its equation can be read there, for pre-norm and
    post-norm layers alike.
    """

    #: True if everything after the attention treats each token alone, so that one token can be computed alone.
    token_wise: bool = False

    @abstractmethod
    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        """Self-attention branch before its residual; with `row` (B,) only that query: (B, 1, D)."""

    def cross_attend(self, x: Tensor, context: Context) -> Tensor | None:
        """Cross-attention branch before its residual, (B, L, D); None where there is nothing to read."""
        return None

    @abstractmethod
    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        """Feed-forward branch before its residual. (B, L, D) -> (B, L, D)."""

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
    def mlp(self) -> nn.Module:
        """The native feed-forward layers."""

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
    def mlp(self) -> nn.Module:
        return self.inner.mlp


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
    def mlp(self) -> nn.Module:
        return nn.Sequential(self.fc, self.activation, self.proj)

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.ln_1(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.ln_2(x)

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.self_attention(self.ln_1(x), context.attention_mask, row)

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.proj(self.activation(self.fc(self.ln_2(x))))

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch


class Attention(nn.Module):
    """Multi-head self-attention on contiguous (B, L, D): one qkv layer, SDPA, one output layer.

    A stock frozen `nn.MultiheadAttention` is 1.7x slower on a CPU (specs/performance.md 3.2), and offers no place
    for LoRA.

    Args:
        width: D.
        heads: number of heads; divides D.
        causal: a token reads only itself and those before it.
        dropout: of attention weights, in training only.
    """

    def __init__(self, width: int, heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.dropout = dropout
        self.qkv: nn.Module = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, L, D / heads)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Tensor, mask: Tensor | None = None, row: Tensor | None = None) -> Tensor:
        """Attention of all tokens, (B, L, D), or of the query at `row` only, (B, 1, D).

        Args:
            x: (B, L, D).
            mask: bool, broadcastable to (B, heads, queries, L), True where a key may be read; None: all.
            row: (B,) index of the only query.
        """
        q, k, v = self.project(x)
        if row is not None:
            q = q[torch.arange(len(x), device=x.device), :, row][:, :, None]  # (B, H, 1, d)
            if self.causal:
                mask = _and(mask, (torch.arange(x.shape[1], device=x.device) <= row[:, None])[:, None, None])
        elif self.causal and mask is not None:
            mask = mask & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        is_causal = self.causal and mask is None
        dropout = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, dropout_p=dropout
        )
        return self.out(attended.transpose(1, 2).flatten(2))


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
        """Keys and values, each (M, heads, S, D / heads); M is B or 1."""
        kv = self.key_value(memory.tokens).unflatten(-1, (2, self.heads, -1))  # (M, S, 2, H, d)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        return (k if memory.key_scale is None else k * memory.key_scale[:, None, :, None].to(k.dtype)), v

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, d)
        k, v = (tensor.expand(len(x), -1, -1, -1) for tensor in self.project_memory(memory))
        dropout = self.dropout if self.training else 0.0
        mask = memory.mask[:, None, None]
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(attended.transpose(1, 2).flatten(2))


def _and(mask: Tensor | None, other: Tensor) -> Tensor:
    return other if mask is None else mask & other


class Tower(nn.Module):
    """A stack of blocks of one modality.

    Attributes:
        kind: which modality the tokens are of.
        width: D.
        grid: patches per column and row (vision towers with a square grid after one [CLS] token), else None.
    """

    kind: ClassVar[Literal["vision", "text", "fusion", "decoder"]]

    def __init__(self, blocks: Sequence[Block], width: int, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.stack = nn.ModuleList(blocks)
        self.width = width
        self.grid = grid
        self.checkpointing = False

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self.stack if isinstance(block, Block)]

    def replace(self, index: int, block: Block) -> None:
        """Puts `block` in the place of the one at `index`."""
        self.stack[index] = block

    def run(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        """All blocks: (B, L, D) -> (B, L, D); with `row` (B,) only that token of the last block: (B, 1, D)."""
        *first, last = self.blocks
        for block in first:
            x = self._call(block, x, context)
        if row is None:
            return self._call(last, x, context)
        return self._call(last.forward_row, x, row, context)

    def _call(self, function: Callable[..., Tensor], *args: object) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return function(*args)
        return checkpoint(function, *args, use_reentrant=False)  # type: ignore[return-value]  # untyped in torch
