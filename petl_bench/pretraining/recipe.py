"""The loop that trains a small backbone, and what it is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from petl_bench.backbones.base import Backbone
from petl_bench.errors import NonFiniteError
from petl_bench.inputs import Clips, Words
from petl_bench.optimizers import AdamWCosine, TrainableParameter

#: steps between two lines of what it prints
_TELL = 250


class Recipe(NamedTuple):
    """How a backbone is pretrained.

    Attributes:
        steps: of the optimiser.
        stills: to learn from, in twins.
        batch: stills of a step, in twins.
        lr: highest learning rate of AdamW; it rises over the first 3 % of the steps and falls as half a cosine.
        weight_decay: of matrices.
        seed: determines stills, first weights and batches.
    """

    steps: int
    stills: int = 40_000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.1
    seed: int = 0


#: of the stills of one step and their random numbers, the loss
Loss = Callable[[np.ndarray, np.random.Generator], Tensor]


def train(model: nn.Module, loss: Loss, recipe: Recipe, after_step: Callable[[], None]) -> None:
    """Trains all parameters of a model; the same recipe gives the same weights on the same machine.

    Products are computed in bfloat16. Prints the mean loss from time to time.

    Args:
        model: in whose parameters `loss` has its gradient.
        loss: of rows of the stills (B,), where each twin follows the other.
        recipe: what to do.
        after_step: what to do after each step.

    Raises:
        NonFiniteError: the loss is not finite.
    """
    parameters = [TrainableParameter(name, one, True, False) for name, one in model.named_parameters()]
    optimizer, schedule = AdamWCosine(recipe.lr, recipe.weight_decay, warmup=0.03).build(parameters, recipe.steps)
    rng = np.random.default_rng([recipe.seed, 200])
    model.train()
    recent: list[float] = []
    # torch's flash attention takes ten times as long on a CPU in bfloat16, backwards.
    with sdpa_kernel(SDPBackend.MATH):
        for step in range(1, recipe.steps + 1):
            twins = rng.choice(recipe.stills // 2, recipe.batch // 2, replace=False)
            rows = np.stack([2 * twins, 2 * twins + 1], axis=1).reshape(-1)
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(rows, rng)
            recent.append(value.item())
            if not math.isfinite(recent[-1]):
                raise NonFiniteError(f"step {step}: the loss is {recent[-1]}")
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            after_step()
            if step % _TELL == 0 or step == recipe.steps:
                print(f"step {step} of {recipe.steps}, loss {np.mean(recent):.3f}", flush=True)
                recent.clear()
    model.eval()


def as_clips(pixels: Tensor) -> Clips:
    """Stills (B, 3, H, W) as clips of one frame."""
    count = len(pixels)
    return Clips(pixels[:, None], torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 1))


def tokenized(backbone: Backbone, texts: list[str]) -> Words:
    """Texts as the backbone reads them, without padding that all have."""
    return backbone.spec.tokenize(texts, backbone.spec.context_length).without_padding()


def projected(backbone: Backbone, texts: list[str]) -> Tensor:
    """Features of texts (B, E) before they are normalised."""
    return backbone.encode_text(tokenized(backbone, texts)).projected


def worded(captions: list[list[str]], rows: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A caption of each still; those of twins are worded alike."""
    wordings = rng.random(len(rows) // 2).repeat(2)
    return [captions[row][int(wording * len(captions[row]))] for row, wording in zip(rows, wordings, strict=True)]


def recall(video: Tensor, text: Tensor) -> dict[str, float]:
    """What cosines of pairs (S, E) find, in percent: R@1 and R@5 of all texts, and which twin a text describes."""
    cosines = text @ video.T
    own = cosines.diag()
    ranks = (cosines >= own[:, None]).sum(1)
    twin = cosines[torch.arange(len(own)), torch.arange(len(own)) ^ 1]
    return {"R@1": percent(ranks <= 1), "R@5": percent(ranks <= 5), "twins": percent(own > twin)}


def percent(right: Tensor) -> float:
    """How many of (S,) are true, to one decimal place."""
    return round(100 * right.float().mean().item(), 1)
