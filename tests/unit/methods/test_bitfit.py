import pytest

from methods.bitfit import BitFit
from tests.unit.methods import trials


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
def test_counts(architecture: str) -> None:
    counts = trials.on_vit_b(BitFit, architecture)
    assert (counts["vision"], counts["text"], counts["trainable"]) == (102_912, 68_096, 171_008)


def test_contract() -> None:
    trials.assert_starts_as_plain(trials.on_tiny(BitFit))
    trials.assert_learns(trials.on_tiny(BitFit))
    trials.assert_copies(trials.on_tiny(BitFit))
    trials.assert_runs_in_bf16(trials.on_tiny(BitFit))


def test_exactly_the_biases_are_trained() -> None:
    method = trials.on_tiny(BitFit)
    trained = trials.trainable(method).keys()
    assert trained == {name for name, _ in method.named_parameters() if name.endswith(".bias")}
