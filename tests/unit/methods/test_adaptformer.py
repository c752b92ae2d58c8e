from typing import Any

import pytest

from methods.adaptformer import AdaptFormer
from tests.unit.methods import trials


def tiny(**options: Any) -> AdaptFormer:
    return trials.on_tiny(AdaptFormer, **{"bottleneck_dim": 8} | options)


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize(
    ("options", "vision", "text"),
    [
        ({}, 1_189_632, 793_344),
        ({"mode": "sequential"}, 1_189_632, 793_344),
        ({"text_adapter": "none"}, 1_189_632, 0),
        ({"learnable_scale": True}, 1_189_632 + 12, 793_344 + 12),
        ({"bottleneck_dim": 128, "layer_norm": "in"}, 2_388_480, 1_592_832),
    ],
)
def test_counts(architecture: str, options: dict[str, Any], vision: int, text: int) -> None:
    counts = trials.on_vit_b(AdaptFormer, architecture, **options)
    assert (counts["vision"], counts["text"], counts["other"]) == (vision, text, 0)


def test_share_of_mv_adapters_baseline() -> None:
    """With CLIP's biases, 2.775 % of ViT-B/16: the 2.78 % of MV-Adapter's tables (arXiv 2301.07868)."""
    trained = trials.on_vit_b(AdaptFormer, bottleneck_dim=128, layer_norm="in")["trainable"] + 171_008
    assert f"{100 * trained / 149_620_737:.3f}" == "2.775"


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("layer_norm", ["none", "in", "out"])
def test_contract(mode: str, layer_norm: str) -> None:
    options = {"mode": mode, "layer_norm": layer_norm, "text_adapter": "sequential", "learnable_scale": True}
    trials.assert_starts_as_plain(tiny(**options))
    trials.assert_last_block_shortcut_exact(tiny(**options))
    trials.assert_runs_in_bf16(tiny(**options))


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_learns(mode: str) -> None:
    trials.assert_learns(tiny(mode=mode))


def test_labels() -> None:
    assert tiny().label == "AdaptFormer"
    assert tiny(mode="sequential").label == "AdaptFormer (sequential)"
