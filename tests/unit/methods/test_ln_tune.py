import pytest

from methods.ln_tune import LNTune
from tests.unit.methods import trials


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
def test_counts(architecture: str) -> None:
    counts = trials.on_vit_b(LNTune, architecture)
    assert (counts["vision"], counts["text"], counts["trainable"]) == (39_936, 25_600, 65_536)


def test_contract() -> None:
    trials.assert_starts_as_plain(trials.on_tiny(LNTune))
    trials.assert_learns(trials.on_tiny(LNTune))
    trials.assert_copies(trials.on_tiny(LNTune))
    trials.assert_runs_in_bf16(trials.on_tiny(LNTune))


def test_label() -> None:
    assert trials.on_tiny(LNTune).label == "LN-tune"
