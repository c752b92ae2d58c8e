import copy
from typing import Any

import pytest
import torch
from torch import nn

from methods.cross_modal_adapter import AdaptedBlock, CrossModalAdapter, PartlySharedAdapter
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.errors import UsageError
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.nn.transformer import Context
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import UnevenCLIP, adapt_on_meta, meta_clip, noise
from tests.inputs import clips_of


def method(backbone: CLIP | None = None, **options: Any) -> Method:
    torch.manual_seed(0)
    return CrossModalAdapter(backbone=backbone or CLIP("tiny", None), task=Retrieval(), **options).adapt()


def adapted_blocks(adapted: Method, kind: str) -> list[AdaptedBlock]:
    return [block for block in adapted.backbone.towers[kind].blocks if isinstance(block, AdaptedBlock)]


@pytest.mark.parametrize("architecture", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu"])
@pytest.mark.parametrize(
    ("bottleneck_dim", "shared_dim", "published"),
    [(8, 16, 519_168), (8, 8, 520_896), (16, 16, 1_008_000), (16, 512, 805_632)],
)
def test_parameter_counts(architecture: str, bottleneck_dim: int, shared_dim: int, published: int) -> None:
    backbone = meta_clip(architecture)
    adapted = adapt_on_meta(CrossModalAdapter(bottleneck_dim, shared_dim, backbone=backbone, task=Retrieval()))
    assert adapted.parameter_counts()["trainable"] == published


def test_equation() -> None:
    """Against the formula of the paper, channel by channel."""
    torch.manual_seed(0)
    shared = nn.Linear(3, 4)
    adapter = PartlySharedAdapter(10, 3, shared)
    assert adapter.unique is not None
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 10)
    actual = adapter(x)
    hidden = x @ adapter.down.weight.T + adapter.down.bias
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    for channel in range(10):
        layer, row = (adapter.unique, channel) if channel < 6 else (shared, channel - 6)
        torch.testing.assert_close(actual[..., channel], x[..., channel] + hidden @ layer.weight[row] + layer.bias[row])


def test_block_equation() -> None:
    adapted = method()
    block = adapted_blocks(adapted, "vision")[0]
    for parameter in (*block.attention_adapter.parameters(), *block.mlp_adapter.parameters()):
        nn.init.normal_(parameter, std=0.2)
    x, context = torch.randn(2, 5, adapted.backbone.towers["vision"].width), Context()
    y = x + block.attention_adapter(block.inner.attend(x, context))
    torch.testing.assert_close(block(x, context), y + block.mlp_adapter(block.inner.feed_forward(y, context)))


def test_start_is_near_the_backbone_but_not_on_it() -> None:
    native = CLIP("tiny", None)
    frames, mask = noise(native, 1, 2), torch.ones(1, 2, dtype=torch.bool)
    expected = native.encode_video(clips_of(frames, mask)).pooled
    actual = method(native).backbone.encode_video(frames, mask).pooled
    assert 0 < (actual - expected).abs().max() < 0.01


@pytest.mark.parametrize("uneven", [False, True])
def test_blocks_of_both_towers_share_from_the_last(uneven: bool) -> None:
    adapted = method(UnevenCLIP() if uneven else None)
    vision, text = (adapted_blocks(adapted, kind) for kind in ("vision", "text"))
    assert len(vision) > len(text) if uneven else len(vision) == len(text)
    for a, b in zip(vision[::-1], text[::-1], strict=False):
        assert a.attention_adapter.shared is b.attention_adapter.shared
        assert a.mlp_adapter.shared is b.mlp_adapter.shared
        assert a.attention_adapter.shared is not a.mlp_adapter.shared
        assert a.attention_adapter.down is not b.attention_adapter.down
    layers = {id(getattr(block, name).shared) for block in vision for name in ("attention_adapter", "mlp_adapter")}
    assert len(layers) == 2 * len(vision)


def test_shared_tensors_are_saved_once_and_stay_shared() -> None:
    adapted = method()
    state = adapted.trained_state()
    assert sum(tensor.numel() for tensor in state.values()) == adapted.parameter_counts()["trainable"]

    clone = copy.deepcopy(adapted)
    vision, text = (adapted_blocks(clone, kind) for kind in ("vision", "text"))
    assert vision[0].mlp_adapter.shared is text[0].mlp_adapter.shared
    changed = {name: tensor + 1 for name, tensor in state.items()}
    clone.load_trained_state(Adapter(changed, clone.identity()), "a test")
    expected = adapted_blocks(adapted, "text")[0].mlp_adapter.shared.weight + 1
    torch.testing.assert_close(text[0].mlp_adapter.shared.weight, expected)


def test_a_fully_shared_narrow_tower_has_no_unique_part() -> None:
    backbone = CLIP("tiny", None)
    adapted = method(backbone, shared_dim=backbone.text.width)
    assert all(block.mlp_adapter.unique is None for block in adapted_blocks(adapted, "text"))
    assert adapted.backbone.encode_text(Words(*adapted.backbone.spec.tokenize(["a"], 4))).pooled.isfinite().all()


def test_a_shared_part_wider_than_a_tower_is_refused() -> None:
    with pytest.raises(UsageError, match="shared_dim"):
        method(shared_dim=10_000)


@pytest.mark.parametrize("pooling", ["mean", "text_conditioned"])
def test_every_trainable_tensor_learns(pooling: Any) -> None:
    torch.manual_seed(0)
    temperature = 5.0 if pooling == "text_conditioned" else None
    task = Retrieval(pooling=pooling, temperature=temperature)
    adapted = CrossModalAdapter(backbone=UnevenCLIP(), task=task).adapt()
    frames = noise(adapted.backbone, 3, 2)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    words = adapted.backbone.spec.tokenize(["a cat", "a dog runs", "rain"], 8)
    index = torch.arange(3)
    loss, _ = task.loss(adapted.backbone, Batch(clips_of(frames, mask), words, index, index, index, index >= 0))
    loss.backward()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
