"""A few steps of pretraining: the same weights each time, and a loss that is not finite ends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import NonFiniteError
from petl_bench.pretraining import blip, clip
from petl_bench.pretraining.recipe import Recipe, recall, train

TINY = Recipe(steps=3, stills=16, batch=8)


@pytest.mark.parametrize("pretrain", [clip.pretrain, blip.pretrain])
def test_a_recipe_gives_the_same_weights_each_time(pretrain: Callable[[Recipe], dict[str, Tensor]]) -> None:
    one, same = pretrain(TINY), pretrain(TINY)
    assert one.keys() == same.keys()
    assert all(torch.equal(value, same[name]) for name, value in one.items())


def test_a_step_trains_all_of_it() -> None:
    one, other = (clip.pretrain(TINY._replace(steps=steps)) for steps in (1, 2))
    still = [name for name, value in one.items() if torch.equal(value, other[name])]
    assert set(still) <= {"attn_mask"}


def test_a_loss_that_is_not_finite_ends_it() -> None:
    model = CLIP("small", None)
    with pytest.raises(NonFiniteError, match="step 1: the loss is nan"):
        train(model, lambda rows, rng: model.logit_scale * torch.nan, TINY, model.limit_logit_scale)


def test_recall_by_hand() -> None:
    text = torch.eye(4)
    video = torch.eye(4)[[0, 1, 3, 2]]  # the last two are taken for each other
    assert recall(video, text) == {"R@1": 50.0, "R@5": 100.0, "twins": 50.0}
