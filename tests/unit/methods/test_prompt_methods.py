from typing import Any

import pytest
import torch
from torch import Tensor

from methods.vop import VoP
from methods.vpt import VPT
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import UnevenCLIP, adapt_on_meta, meta_clip, noise
from tests.inputs import clips_of


@pytest.mark.parametrize("architecture", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu"])
@pytest.mark.parametrize(
    ("method", "options", "vision", "text"),
    [
        (VPT, {"prompts": 5}, 46_080, 0),
        (VPT, {"prompts": 20}, 184_320, 0),
        (VoP, {}, 73_728, 49_152),
        (VoP, {"text_prompts": 4}, 73_728, 24_576),
    ],
)
def test_parameter_counts(
    architecture: str, method: type[Method], options: dict[str, Any], vision: int, text: int
) -> None:
    counts = adapt_on_meta(method(backbone=meta_clip(architecture), task=Retrieval(), **options)).parameter_counts()
    assert (counts["vision"], counts["text"], counts["other"]) == (vision, text, 0)


def clips() -> Tensor:
    return noise(UnevenCLIP(), 2, 3)


@pytest.mark.parametrize("method", [VPT, VoP])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_trainable_tensor_learns(method: type[Method], checkpointing: bool) -> None:
    adapted = method(backbone=UnevenCLIP(), task=Retrieval()).adapt()
    adapted.backbone.set_gradient_checkpointing(checkpointing)
    video = adapted.backbone.encode_video(clips_of(clips(), torch.ones(2, 3, dtype=torch.bool))).pooled
    text = adapted.backbone.encode_text(Words(*adapted.backbone.spec.tokenize(["a cat", "rain"], 8))).pooled
    ((video + text) * torch.randn(2, adapted.backbone.embed_dim)).sum().backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) is parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("method", [VPT, VoP])
def test_frames_stay_apart(method: type[Method]) -> None:
    backbone = method(backbone=UnevenCLIP(), task=Retrieval()).adapt().backbone
    changed = clips()
    changed[:, 2] = 0
    mask = torch.tensor([[True, True, False]] * 2)
    first, second = (backbone.encode_video(clips_of(frames, mask)) for frames in (clips(), changed))
    torch.testing.assert_close(first.pooled, second.pooled, atol=0, rtol=0)
    assert (first.frames[:, 2] - second.frames[:, 2]).abs().max() > 0
