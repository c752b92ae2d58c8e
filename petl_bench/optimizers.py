"""Optimiser recipes: optimiser, parameter groups, schedule and clipping, which belong together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.lr_scheduler import LambdaLR

from petl_bench.configurable import Configurable
from petl_bench.ranges import NonNegative, Positive, ShareBelowOne

_torch: Any = torch  # type checkers do not see the `_foreach_` operations, which torch's documentation lists


class TrainableParameter(NamedTuple):
    """A parameter to optimise, and what recipes group by.

    Attributes:
        name: in the method, for messages.
        parameter: the tensor.
        pretrained: the backbone had it before the method changed anything.
        bias: it is the bias of its layer.
    """

    name: str
    parameter: nn.Parameter
    pretrained: bool
    bias: bool


class OptimizerRecipe(Configurable, ABC):
    """How trainable parameters are optimised.

    Attributes:
        clip_norm: bound on the global gradient norm per step, or None.
    """

    clip_norm: float | None

    @abstractmethod
    def build(self, parameters: Sequence[TrainableParameter], steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser over the trainable parameters, and its per-step schedule over `steps` steps."""


class AdamWCosine(OptimizerRecipe):
    """AdamW, linear warm-up, then cosine decay to zero.

    With betas 0.9, 0.999 and eps 1e-6 it is the recipe of TempMe and DiscoVLA for adapters on CLIP (LunarShen/TempMe
    e624930, main.py), but for the weight decay of vectors (biases, norms, scales), which is none here.

    Args:
        lr: peak learning rate.
        weight_decay: decoupled weight decay of matrices.
        warmup: share of all steps in which the rate rises.
        betas: AdamW's decay rates.
        eps: added to the root of the second moment.
        clip_norm: bound on the global gradient norm per step, or null.
    """

    def __init__(
        self,
        lr: Positive = 6e-4,
        weight_decay: NonNegative = 0.2,
        warmup: ShareBelowOne = 0.1,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98),
        eps: Positive = 1e-8,
        clip_norm: NonNegative | None = 1.0,
    ) -> None:
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.betas, self.eps, self.clip_norm = betas, eps, clip_norm

    def build(self, parameters: Sequence[TrainableParameter], steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        matrices = [p.parameter for p in parameters if p.parameter.ndim >= 2]
        vectors = [p.parameter for p in parameters if p.parameter.ndim < 2]
        groups = parameter_groups((matrices, {"weight_decay": self.weight_decay}), (vectors, {"weight_decay": 0.0}))
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
        return optimizer, LambdaLR(optimizer, lambda step: warmup_cosine(step / max(1, steps), self.warmup))


def unfused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same optimiser in steps: fused kernels take gradients as fp16 scales them, which cannot be clipped then."""
    for group in (optimizer.defaults, *optimizer.param_groups):
        if group.get("fused"):
            group["fused"] = False
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # by which a scaler knows fused kernels
    return optimizer


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT's first PyTorch port had it, which CLIP4Clip and MV-Adapter train with.

    It differs from AdamW in three ways: the moments are not corrected for their start at zero, each tensor's gradient
    is clipped to norm `max_norm` by itself, and `eps` is large. Update: p -= lr * (m / (sqrt(v) + eps) + decay * p).
    Source: `modules/optimization.py` of CLIP4Clip (arXiv 2104.08860), after pytorch-pretrained-BERT.

    Args:
        params: parameters or groups.
        lr: learning rate; a schedule changes it from outside.
        betas: decay rates of the moments m and v.
        eps: added to the root of v.
        weight_decay: decoupled.
        max_norm: bound on the gradient norm of one tensor.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_norm: float = 1.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        adamw(
            parameters,
            _clip_each([p.grad for p in parameters], group["max_norm"]),
            exp_avgs=[self._moment(p, "exp_avg") for p in parameters],
            exp_avg_sqs=[self._moment(p, "exp_avg_sq") for p in parameters],
            max_exp_avg_sqs=[],
            # After infinitely many steps AdamW corrects its moments by nothing: that is BertAdam, in one fused kernel.
            state_steps=[torch.full((), math.inf, device=parameters[0].device)] * len(parameters),
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _moment(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


def _clip_each(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """Each gradient scaled to at most `max_norm`; the given ones stay as they are."""
    norms = torch.stack(_torch._foreach_norm(gradients))
    if norms.device.type != "cpu":  # launches, one per tensor, take less than to wait for all that is asked of a GPU
        return list(_torch._foreach_mul(gradients, (max_norm / (norms + 1e-6)).clamp(max=1.0).unbind()))
    scales = [min(1.0, max_norm / (norm + 1e-6)) for norm in norms.tolist()]
    if min(scales) == 1.0:  # as after global clipping
        return gradients
    return list(_torch._foreach_mul(gradients, scales))


def parameter_groups(*groups: tuple[list[nn.Parameter], dict[str, float]]) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser, without those that would be empty."""
    return [{"params": parameters, **options} for parameters, options in groups if parameters]


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor on the learning rate at `progress` in [0, 1]: linear up to `warmup`, then half a cosine down to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def bert_warmup_cosine(progress: float, warmup: float) -> float:
    """BertAdam's `warmup_cosine`: linear up to `warmup`, then half a cosine over all steps, at once below 1.

    Source: `modules/optimization.py` of CLIP4Clip (arXiv 2104.08860), after pytorch-pretrained-BERT.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
