"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

#: what is recomputed: whole blocks (true), or of each block the activation of its feed-forward branch alone
Recomputation = bool | Literal["activations"]

#: who is told what is kept for a recomputation, see `watching`
_watchers: list[Callable[[Tensor], object]] = []


def recomputed(function: Callable[..., T], *args: object) -> T:
    """`function(*args)`, of which only the arguments are kept for the backward pass.

    It is called a second time there, with the same random state and under the same autocast.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    for tensor in (argument for argument in args if isinstance(argument, Tensor)):
        for watcher in _watchers:
            watcher(tensor)
    return checkpoint(function, *args, use_reentrant=False)  # type: ignore[return-value]  # untyped in torch


class _Attention(torch.autograd.Function):
    """Attention of which queries, keys and values are kept; what it gave is computed a second time, for its gradient.

    Leaner than `recomputed`, which would keep random numbers and look for what else is kept: this has neither.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, grouped: bool) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.causal, ctx.grouped = causal, grouped
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *given, mask = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        q, k, v = (tensor.detach().requires_grad_(need) for tensor, need in zip(given, needed, strict=True))
        with torch.enable_grad():
            attended = F.scaled_dot_product_attention(q, k, v, mask, is_causal=ctx.causal, enable_gqa=ctx.grouped)
            attended = attended.to(grads[0].dtype)  # where autocast cast what is no product of a linear layer
        found = iter(torch.autograd.grad(attended, [tensor for tensor in (q, k, v) if tensor.requires_grad], grads))
        return *(next(found) if need else None for need in needed), None, None, None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, grouped: bool) -> Tensor:
    """Attention without dropout that does not keep what it gives, for where no trained weight keeps it anyway.

    Args:
        q: (B, H, L, d).
        k: (B, H_k, S, d).
        v: (B, H_k, S, d), all three in the precision in which autocast computes.
        mask: bool, True where a key may be read.
        causal: each query reads only the keys up to its own.
        grouped: several heads of queries share one of keys and values.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)
    return _Attention.apply(q, k, v, mask, causal, grouped)  # type: ignore[return-value]  # torch leaves apply untyped


@contextmanager
def watching(watcher: Callable[[Tensor], object]) -> Iterator[None]:
    """Inside the block the watcher is called with each tensor that is kept for a recomputation.

    Autograd's own hooks do not see these.
    """
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
