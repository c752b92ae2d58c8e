"""What the tests of several methods do with a method on the tiny CLIP."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.tasks.base import present
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import UnevenCLIP, adapt_on_meta, meta_clip
from tests.inputs import clips_of

M = TypeVar("M", bound=Method)


def on_vit_b(method: type[M], architecture: str = "ViT-B-16-quickgelu", **options: Any) -> dict[str, int]:
    """Trainable parameters of a method at full size."""
    return adapt_on_meta(method(backbone=meta_clip(architecture), task=Retrieval(), **options)).parameter_counts()


def on_tiny(method: type[M], **options: Any) -> M:
    """The method on a tiny CLIP with four vision and three text blocks of other width, injected."""
    torch.manual_seed(0)
    built = method(backbone=UnevenCLIP(), task=Retrieval(), **options)
    built.adapt()
    return built


def randomise(method: M) -> M:
    """Gives every trainable tensor a value away from its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(method).values():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def trainable(method: Method) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}


def clips(videos: int = 2, frames: int = 4) -> Tensor:
    """Noise, normalised, (B, T, 3, 64, 64)."""
    return torch.randn(videos, frames, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def ragged(videos: int = 2, frames: int = 4) -> Tensor:
    """A mask under which the last clip has lost its last frames."""
    mask = torch.ones(videos, frames, dtype=torch.bool)
    mask[-1, (frames + 1) // 2 :] = False
    return mask


def features(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Pooled features of two clips (one ragged) and two captions."""
    ids, mask, _ = backbone.spec.tokenize(["a cat runs", "two people dance in the rain"], 12)
    return backbone.encode_video(clips_of(clips(), ragged())).pooled, backbone.encode_text(Words(ids, mask)).pooled


def assert_starts_as_plain(method: Method) -> None:
    """The features before training are those of the plain backbone."""
    for actual, expected in zip(features(method.backbone), features(UnevenCLIP()), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def assert_learns(method: Method, checkpointing: bool = False) -> None:
    """Two steps reach every trainable tensor and change nothing else."""
    method.backbone.set_gradient_checkpointing(checkpointing)
    frozen = {name: p.clone() for name, p in method.named_parameters() if not p.requires_grad}
    start = {name: p.detach().clone() for name, p in trainable(method).items()}
    optimizer = torch.optim.SGD(trainable(method).values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        video, text = features(method.backbone)
        scale = present(method.backbone.joint).logit_scale.exp()
        torch.nn.functional.cross_entropy(scale * video @ text.T, torch.arange(2)).backward()
        optimizer.step()
    assert start
    assert [name for name, p in trainable(method).items() if torch.equal(p, start[name])] == []
    parameters = dict(method.named_parameters())
    assert [name for name, value in frozen.items() if not torch.equal(parameters[name], value)] == []
    assert [name for name in frozen if parameters[name].grad is not None] == []


def assert_last_block_shortcut_exact(method: Method) -> None:
    """The features are the same whether the last block computes one token or all."""
    backbone = randomise(method).backbone
    pixels = clips_of(clips(), ragged())
    short, whole = backbone.encode_video(pixels), backbone.encode_video_tokens(pixels).features
    torch.testing.assert_close(short.frames, whole.frames, atol=1e-5, rtol=1e-5)


def assert_padding_changes_nothing(method: Method) -> None:
    """What padded frames hold, and how many there are, changes no real frame."""
    backbone, mask = randomise(method).backbone, ragged()
    other = clips()
    other[~mask] = 7.0
    first, second = backbone.encode_video(clips_of(clips(), mask)), backbone.encode_video(clips_of(other, mask))
    assert torch.equal(first.by_frame()[mask], second.by_frame()[mask])
    alone = backbone.encode_video(clips_of(clips()[-1:, :2], mask[-1:, :2]))
    torch.testing.assert_close(alone.pooled, first.pooled[-1:], atol=1e-5, rtol=1e-5)


def assert_copies(method: Method) -> None:
    """A deep copy gives the same features and shares nothing with the original."""
    twin = copy.deepcopy(randomise(method))
    for actual, expected in zip(features(twin.backbone), features(method.backbone), strict=True):
        assert torch.equal(actual, expected)
    own = {p.data_ptr() for p in method.parameters()}
    assert not own & {p.data_ptr() for p in twin.parameters()}


def assert_runs_in_bf16(method: Method) -> None:
    """bf16 autocast gives nearly the same features, and gradients to every trainable tensor."""
    expected = features(randomise(method).backbone)
    with torch.autocast("cpu", torch.bfloat16):
        actual = features(method.backbone)
        scale = present(method.backbone.joint).logit_scale.exp()
        (scale * actual[0] @ actual[1].T).diagonal().sum().backward()
    for a, b in zip(actual, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(a.float(), b, dim=-1).min() > 0.99
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainable(method).values())
