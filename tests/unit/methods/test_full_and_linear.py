import pytest
import torch

from methods.full import Full
from methods.linear import Linear
from petl_bench.backbones.blip.model import BLIP
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.retrieval import Retrieval
from tests.unit.methods import trials


@pytest.mark.parametrize(
    ("architecture", "total"), [("ViT-B-16-quickgelu", 149_620_737), ("ViT-B-32-quickgelu", 151_277_313)]
)
def test_counts(architecture: str, total: int) -> None:
    full, linear = trials.on_vit_b(Full, architecture), trials.on_vit_b(Linear, architecture)
    assert (full["trainable"], full["total"], linear["total"]) == (total, total, total)
    assert (linear["vision"], linear["text"], linear["trainable"]) == (393_216, 262_144, 655_360)


@pytest.mark.parametrize(("task", "matching_head"), [(Retrieval, 0), (MatchingRetrieval, 1_538)])
def test_linear_on_blip(task: type[Retrieval], matching_head: int) -> None:
    """As in UniAdapter's released code: two projections, and the matching head where the task matches."""
    with torch.device("meta"):
        linear = Linear(backbone=BLIP("base", None), task=task()).adapt()
    assert linear.parameter_counts()["trainable"] == 2 * 196_864 + matching_head


def test_contract() -> None:
    trials.assert_learns(trials.on_tiny(Linear))
    trials.assert_copies(trials.on_tiny(Linear))
    trials.assert_copies(trials.on_tiny(Full))
    trials.assert_runs_in_bf16(trials.on_tiny(Linear))
