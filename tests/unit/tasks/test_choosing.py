"""Tasks that choose learn which option is right: few steps on few clips, from random weights."""

from __future__ import annotations

import pytest
import torch

from methods.full import Full
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.method import Method
from petl_bench.tasks.choice import Choice
from petl_bench.tasks.choice_generation import ChoiceGeneration
from petl_bench.tasks.choice_matching import ChoiceMatching
from petl_bench.tasks.choosing import Choosing
from petl_bench.testing.samples import asked, make_batch, train


def accuracy(method: Method) -> float:
    """Of the four clips, whose options stand in four orders, so that no place is always right."""
    batch = asked(make_batch(method.backbone, frames=3))
    method.eval()
    method.task.expect(4, 4)
    with torch.no_grad():
        method.task.update(method.backbone, batch)
    found = method.task.compute().record["accuracy"]
    method.task.reset()
    return found


@pytest.mark.parametrize(
    ("backbone", "task", "rate", "steps"),
    [
        (CLIP, Choice, 0.01, 10),
        (BLIP, Choice, 0.05, 20),
        (BLIP, ChoiceMatching, 0.05, 20),
        (BLIPVQA, ChoiceGeneration, 0.05, 20),
    ],
)
def test_it_learns_what_is_right(backbone: type[Backbone], task: type[Choosing], rate: float, steps: int) -> None:
    torch.manual_seed(0)
    method = Full(backbone=backbone.tiny(), task=task()).adapt()
    before = accuracy(method)
    train(method, asked(make_batch(method.backbone, frames=3)), steps, rate)
    assert before < 100
    assert accuracy(method) == 100
