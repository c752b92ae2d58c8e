"""Layers that several backbones and methods share."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.nn.mixed_precision import LayerNorm, Linear

LayerNormOption = Literal["none", "in", "out"]


class _LeanQuickGELU(torch.autograd.Function):
    """x * sigmoid(1.702 x) as silu(1.702 x) / 1.702: one kernel each way, and one tensor kept for the backward pass.

    The plain expression keeps two tensors of four widths each, 28 % of what adapter training saves.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = 1.702 * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).div_(1.702)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0], scaled)


class QuickGELU(nn.Module):
    """CLIP's activation, x * sigmoid(1.702 x), keeping one tensor of its input's size for the backward pass."""

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
        self.down = Linear(width, bottleneck_dim)
        self.activation = nn.ReLU() if activation is None else activation
        self.dropout = nn.Dropout(dropout)
        self.up = Linear(bottleneck_dim, width)
        self.scale = nn.Parameter(torch.full((1,), scale)) if learnable_scale else scale
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.up(self.dropout(self.activation(self.down(x)))) * self.scale


class AdaptMLP(nn.Module):
    """AdaptFormer's adapter: s * W_up(Dropout(ReLU(W_down x))), with an optional layer norm before or after it.

    Source: AdaptFormer (Chen et al., arXiv 2205.13535) and its official code, `models/adapter.py`.

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
        self.norm_in = LayerNorm(width) if layer_norm == "in" else nn.Identity()
        self.bottleneck = Bottleneck(width, bottleneck_dim, scale, learnable_scale, dropout=dropout)
        self.norm_out = LayerNorm(width) if layer_norm == "out" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D); exactly zero before training."""
        return self.norm_out(self.bottleneck(self.norm_in(x)))


class LowRank(nn.Module):
    """A linear map of low rank without bias, scale * B A x; zero before training, because B starts at zero."""

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.a = Linear(in_features, rank, bias=False)
        self.b = Linear(rank, out_features, bias=False)
        nn.init.kaiming_uniform_(self.a.weight, a=5**0.5)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) -> (..., D_out)."""
        return self.b(self.a(x) * self.scale)

    def weight(self) -> Tensor:
        """The map as a matrix, (D_out, D_in)."""
        return self.scale * self.b.weight @ self.a.weight


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained update of low rank: W x + b + scale * B A x.

    On a fused qkv layer, queries, keys and values share A, as in TempMe (arXiv 2409.01156).
    Source: LoRA (Hu et al., arXiv 2106.09685), section 4.1.

    Args:
        native: the frozen layer, D_in to D_out.
        rank: r; A is (r, D_in), B is (D_out, r).
        scale: fixed factor.
    """

    def __init__(self, native: nn.Linear, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.native = native
        self.update = LowRank(native.in_features, native.out_features, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) -> (..., D_out)."""
        return self.native(x) + self.update(x)

    def merged(self) -> nn.Linear:
        """A plain linear layer with the same outputs; this one is left as it is."""
        return add_to_weight(self.native, self.update.weight())


def add_to_weight(layer: nn.Linear, delta: Tensor) -> nn.Linear:
    """A copy of a linear layer with `delta` (D_out, D_in) added to its weight."""
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight += delta
    return changed


def biases(module: nn.Module) -> list[nn.Parameter]:
    """The `bias` of every layer in a module: of linear layers, convolutions and norms alike."""
    found = (getattr(layer, "bias", None) for layer in module.modules())
    return [bias for bias in found if isinstance(bias, nn.Parameter)]
