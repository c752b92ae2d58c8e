import pytest

from methods.partial import Partial
from petl_bench.errors import UsageError
from tests.unit.methods import trials


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_counts(architecture: str, blocks: int) -> None:
    counts = trials.on_vit_b(Partial, architecture, blocks=blocks)
    assert (counts["vision"], counts["text"]) == (blocks * 7_087_872, blocks * 3_152_384)
    assert counts["trainable"] == blocks * 10_240_256


@pytest.mark.parametrize("blocks", [1, 3])
def test_contract(blocks: int) -> None:
    trials.assert_starts_as_plain(trials.on_tiny(Partial, blocks=blocks))
    trials.assert_learns(trials.on_tiny(Partial, blocks=blocks))
    trials.assert_copies(trials.on_tiny(Partial, blocks=blocks))
    trials.assert_runs_in_bf16(trials.on_tiny(Partial, blocks=blocks))


def test_the_last_blocks_of_each_tower_are_trained() -> None:
    for tower in trials.on_tiny(Partial, blocks=2).backbone.towers.values():
        states = [{p.requires_grad for p in block.parameters()} for block in tower.blocks]
        assert states == [{False}] * (len(states) - 2) + [{True}] * 2


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match="text tower has 3 blocks"):
        trials.on_tiny(Partial, blocks=4)


def test_label() -> None:
    assert trials.on_tiny(Partial, blocks=2).label == "Partial-2"
