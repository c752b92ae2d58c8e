"""Layers that under autocast keep for the backward pass what they were given, and not the casts of it.

Outputs and gradients are those of torch's layers, to the last bit: a cast is made a second time in the backward pass.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = TypeVar("Norm", bound=nn.Module)

_LOW = (torch.bfloat16, torch.float16)


class _CastLinear(torch.autograd.Function):
    """x W^T + b in lower precision, keeping W itself, a parameter, where autograd would keep a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        low = x.to(dtype)
        for_input, for_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(low if for_weight else None, weight if for_input else None)
        ctx.kinds = (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        return F.linear(low, weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.kinds
        (grad,) = grads
        rows = grad.flatten(0, -2)  # (N, D_out)
        needed = ctx.needs_input_grad
        return (
            (rows @ weight.to(grad.dtype)).view(*grad.shape[:-1], -1).to(of_x) if needed[0] else None,
            (rows.t() @ low.flatten(0, -2)).to(of_weight) if needed[1] else None,
            rows.sum(0).to(of_bias) if needed[2] else None,
            None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`; of a parameter that autocast reads in lower precision no copy is kept.

    Args:
        x: (..., D_in), of two dimensions or more.
        weight: (D_out, D_in), a parameter or a view of one; else it is kept whole, where its cast would do.
        bias: (D_out,).
    """
    kind = x.device.type
    if torch.is_grad_enabled() and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        if weight.dtype == torch.float32 and dtype in _LOW:
            return _CastLinear.apply(x, weight, bias, dtype)  # type: ignore[return-value]  # torch leaves it untyped
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` for what is trained, see `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        return linear(input, self.weight, self.bias)


class _CastNorm(torch.autograd.Function):
    """Layer norm in fp32 of an input in lower precision, keeping that input, where autograd would keep it in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        normalised, mean, rstd = torch.native_layer_norm(x.float(), weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        ctx.asked = [of_x, of_weight or _is_cut(x, of_weight, of_bias), of_bias]
        return normalised.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad
        of_x, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
            grads[0].float(), x.float(), weight.shape, mean, rstd, weight, bias, ctx.asked
        )
        return of_x.to(x.dtype) if needed[0] else None, of_weight if needed[1] else None, of_bias, None, None


#: rows of a layer norm up to which torch's CUDA kernel finds the gradient of a bias that is trained alone
_ROWS_OF_BIAS_ALONE = 64 * 1024


def _is_cut(x: Tensor, trains_weight: bool, trains_bias: bool) -> bool:
    """Whether torch would give no gradient of a norm's bias: on CUDA, of many rows, where the weight needs none.

    The backward pass stops then with "invalid gradient at index 2 - got [0]" (github.com/pytorch/pytorch/pull/193016;
    seen with 2.11): 28 clips of 12 frames have that many rows in ViT-B/16. Where the weight's gradient is asked for,
    too, it is given. What is compiled has other kernels.
    """
    if torch.compiler.is_compiling():
        return False
    return x.is_cuda and trains_bias and not trains_weight and x.shape[:-1].numel() > _ROWS_OF_BIAS_ALONE


def normalised_in_fp32(x: Tensor) -> bool:
    """Whether autocast computes the norm of x in a precision that x does not have, as it does on CUDA."""
    return x.dtype in _LOW and x.device.type == "cuda" and torch.is_autocast_enabled("cuda")


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` with weight and bias.

    Args:
        width: D.
        eps: added to the variance.
        as_given: give the precision of the input, as open_clip does, and not that in which autocast computes.
    """

    def __init__(self, width: int, eps: float = 1e-5, as_given: bool = False) -> None:
        super().__init__(width, eps)
        self.as_given = as_given

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """(..., D) -> (..., D)."""
        if normalised_in_fp32(input):
            dtype = input.dtype if self.as_given else torch.float32
            found = _CastNorm.apply(input, self.weight, self.bias, self.eps, dtype)
            return found  # type: ignore[return-value]  # torch leaves it untyped
        weight = self.weight
        if torch.is_grad_enabled() and _is_cut(input, weight.requires_grad, self.bias.requires_grad):
            weight = weight.detach().requires_grad_()  # of this call alone, so that nobody reads its gradient
        found = F.layer_norm(input, self.normalized_shape, weight, self.bias, self.eps)
        return found.to(input.dtype) if self.as_given else found


def taken_over(native: Norm, as_given: bool = False) -> Norm:
    """A `LayerNorm` with the parameters of a native norm; what is none, or lacks weight or bias, is left as it is."""
    if not isinstance(native, nn.LayerNorm) or native.weight is None or native.bias is None:
        return native
    (width,) = native.normalized_shape
    with torch.device("meta"):
        norm = LayerNorm(width, native.eps, as_given)
    norm.weight, norm.bias = native.weight, native.bias
    return cast(Norm, norm)
