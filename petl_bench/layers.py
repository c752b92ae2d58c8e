"""Layers that several backbones and methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _LeanQuickGELU(torch.autograd.Function):
    """x * sigmoid(1.702 x) that keeps only x for the backward pass.

    The plain expression keeps two tensors of four widths each, 28 % of what adapter training saves
    (specs/performance.md 3.1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(1.702 * x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(1.702 * x)
        return grads[0] * gate * (1 + 1.702 * x * (1 - gate))


class QuickGELU(nn.Module):
    """CLIP's activation, x * sigmoid(1.702 x), keeping only its input for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return _LeanQuickGELU.apply(x)  # type: ignore[return-value]  # torch leaves apply untyped


class Bottleneck(nn.Module):
    """Down-projection, activation, dropout, up-projection: scale * W_up(Dropout(act(W_down x))).

    The up-projection starts at zero, so a block is unchanged before training ("lora" start of AdaptFormer).

    Args:
        width: D.
        bottleneck_dim: b.
        scale: fixed factor, or the start of a learnable one.
        learnable_scale: train the factor.
        activation: module between the projections.
        dropout: probability between activation and up-projection, in training only.
    """

    def __init__(
        self,
        width: int,
        bottleneck_dim: int,
        scale: float,
        learnable_scale: bool = False,
        activation: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck_dim)
        self.activation = nn.ReLU() if activation is None else activation
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck_dim, width)
        self.scale = nn.Parameter(torch.full((1,), scale)) if learnable_scale else scale
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.up(self.dropout(self.activation(self.down(x)))) * self.scale
