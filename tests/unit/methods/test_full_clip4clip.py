from typing import cast

import pytest

from methods.full_clip4clip import FullCLIP4Clip
from petl_bench.backbones.clip.model import CLIP
from tests.unit.methods import trials


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
def test_counts(architecture: str) -> None:
    counts = trials.on_vit_b(FullCLIP4Clip, architecture)
    assert counts["trainable"] == 123_540_993
    assert counts["other"] == 1  # the logit scale


def test_contract() -> None:
    trials.assert_starts_as_plain(trials.on_tiny(FullCLIP4Clip))
    trials.assert_learns(trials.on_tiny(FullCLIP4Clip))
    trials.assert_copies(trials.on_tiny(FullCLIP4Clip))
    trials.assert_runs_in_bf16(trials.on_tiny(FullCLIP4Clip))


def test_what_lies_before_the_blocks_is_frozen() -> None:
    backbone = cast(CLIP, trials.on_tiny(FullCLIP4Clip).backbone)
    vision, text = backbone.vision, backbone.text
    before = [vision.class_embedding, vision.positional_embedding, text.positional_embedding]
    before += [vision.conv1.weight, vision.ln_pre.weight, vision.ln_pre.bias, text.token_embedding.weight]
    assert {id(p) for p in before} == {id(p) for p in backbone.parameters() if not p.requires_grad}


def test_label() -> None:
    assert trials.on_tiny(FullCLIP4Clip).label == "Full (CLIP4Clip)"
