"""Text towers that run by themselves: the model's features to the bit, and nothing else in them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.bpe import clip_tokenize
from petl_bench.search.text_tower import NoTextTower, TextTower, checked
from petl_bench.search.tracing import exported
from tests.contract import battery

TEXTS = ("a man plays a guitar in the rain, loudly, and a dog looks at him", "dog", "")
#: methods whose text tower is not that of the backbone
ADAPTED = [
    case for case in battery.CASES if case.name in ("lora", "mvadapter", "vop", "cross_modal_adapter", "convpass")
]


@pytest.mark.parametrize("case", ADAPTED, ids=str)
def test_features_are_those_of_the_model_to_the_bit(case: battery.Case) -> None:
    backbone = battery.builder(case)().adapt().eval().requires_grad_(False).backbone
    for parameter in backbone.parameters():  # adapters begin as nothing
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    gives_the_same(backbone)


def test_features_of_blip_to_the_bit() -> None:
    gives_the_same(BLIP.tiny().eval().requires_grad_(False))


def gives_the_same(backbone: Backbone) -> None:
    tower = exported(backbone, 16)
    assert not [name for name in tower.tensors if "vision" in name]
    tower = checked(tower.program, tower.tensors)
    for text in TEXTS:
        with torch.inference_mode():
            expected = backbone.encode_text(backbone.spec.tokenize([text], 16))
        pooled, projected = tower.encode(text)
        assert torch.equal(pooled, expected.pooled[0])
        assert torch.equal(projected, expected.projected[0])


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return exported(CLIP.tiny().eval().requires_grad_(False), 8)


def test_a_text_that_is_cut(tower: TextTower) -> None:
    assert tower.cut("a dog") == ""
    assert "of which the first 8 are read" in tower.cut(" ".join(["guitar"] * 500))


def test_a_tokenizer_that_is_not_known() -> None:
    backbone = CLIP.tiny().eval().requires_grad_(False)
    backbone.spec = replace(backbone.spec, tokenizer=lambda texts, max_words: clip_tokenize(texts, max_words))
    with pytest.raises(NoTextTower, match="none that an index can hold"):
        exported(backbone, 8)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": [["x", "from_file.default", ["/etc/passwd"], {}]]}, "from_file"),
        ({"steps": [["x", "save.default", [{"step": "ids"}, "/tmp/x"], {}]]}, "save"),
        ({"steps": [["x", "__class__", [], {}]]}, "__class__"),
        ({"steps": [["x", "relu.default", [{"step": "nothing"}], {}]]}, "nothing"),
        ({"steps": [["x", "relu.default", 3, {}]]}, "none that is known"),
        ({"steps": 3}, "none that is known"),
        ({"features": ["ids"]}, "are missing"),
        ({"features": ["ids", "nothing"]}, "are missing"),
        ({"max_words": "8"}, "are missing"),
        ({"tokenizer": {"kind": "clip", "vocabulary": "49408"}}, "514 to 49408"),
        ({"tokenizer": 3}, "none that is known"),
    ],
)
def test_what_is_no_tower_is_refused(tower: TextTower, change: dict[str, Any], told: str) -> None:
    program = copy.deepcopy(dict(tower.program)) | change
    with pytest.raises(NoTextTower, match=told):
        checked(program, tower.tensors)


def test_a_program_that_says_nothing() -> None:
    with pytest.raises(NoTextTower):
        checked({}, {})
