"""Optimiser recipes: optimiser, parameter groups, schedule and clipping, which belong together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from petl_bench.errors import UsageError


class OptimizerRecipe(ABC):
    """How trainable parameters are optimised.

    Attributes:
        clip_norm: bound on the global gradient norm per step, or None.
    """

    clip_norm: float | None

    @abstractmethod
    def build(self, parameters: Iterable[tuple[str, nn.Parameter]], steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser over named trainable parameters, and its per-step schedule over `steps` steps."""


class AdamWCosine(OptimizerRecipe):
    """AdamW, linear warm-up, then cosine decay to zero.

    The defaults are those published for adapters on CLIP (TempMe; specs/other_methods.md section 6), but for the
    weight decay of vectors (biases, norms, scales), which is none here.

    Args:
        lr: peak learning rate.
        weight_decay: decoupled weight decay of matrices.
        warmup: share of all steps in which the rate rises.
        betas: AdamW's decay rates.
        clip_norm: bound on the global gradient norm per step, or null.
    """

    def __init__(
        self,
        lr: float = 6e-4,
        weight_decay: float = 0.2,
        warmup: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        clip_norm: float | None = 1.0,
    ) -> None:
        require_rate("lr", lr)
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise UsageError(f"optimizer.weight_decay is {weight_decay}: it must be finite and not negative")
        if not 0 <= warmup < 1:
            raise UsageError(f"optimizer.warmup is {warmup}: it is a share of all steps, from 0 to below 1")
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.betas, self.clip_norm = betas, clip_norm

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]], steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        named = list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)
        return optimizer, LambdaLR(optimizer, lambda step: warmup_cosine(step / max(1, steps), self.warmup))


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor on the learning rate at `progress` in [0, 1]: linear up to `warmup`, then half a cosine down to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def require_rate(key: str, value: float) -> None:
    """Refuses a learning rate that is not finite and positive."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"optimizer.{key} is {value}: it must be finite and positive")
