from typing import Any

import pytest
import torch
from torch import nn

from methods.lora import LoRA, QueryValueLoRA
from petl_bench.errors import NonFiniteError, UsageError
from petl_bench.nn.layers import LoRALinear
from petl_bench.nn.transformer import Widths
from petl_bench.storage.adapters import Adapter
from tests.backbones import UnevenCLIP
from tests.unit.methods import trials

TARGETS = ["in_proj", "q_v"]


def tiny(**options: Any) -> LoRA:
    return trials.on_tiny(LoRA, **{"rank": 4} | options)


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize("targets", TARGETS)
def test_counts(architecture: str, targets: str) -> None:
    counts = trials.on_vit_b(LoRA, architecture, targets=targets)
    assert (counts["vision"], counts["text"], counts["trainable"]) == (294_912, 196_608, 491_520)


@pytest.mark.parametrize("targets", TARGETS)
def test_contract(targets: str) -> None:
    trials.assert_starts_as_plain(tiny(targets=targets))
    trials.assert_last_block_shortcut_exact(tiny(targets=targets))
    trials.assert_padding_changes_nothing(tiny(targets=targets))
    trials.assert_copies(tiny(targets=targets))
    trials.assert_runs_in_bf16(tiny(targets=targets))


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_learns(targets: str, checkpointing: bool) -> None:
    trials.assert_learns(tiny(targets=targets), checkpointing)


def test_fused_update_by_formula() -> None:
    """(x A^T) B^T added to queries, keys and values, with one A."""
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(6, 18), rank=2, scale=0.5)
    a, b = torch.randn(2, 6), torch.randn(18, 2)
    layer.load_state_dict({"update.a.weight": a, "update.b.weight": b}, strict=False)
    x = torch.randn(3, 4, 6)
    torch.testing.assert_close(layer(x), layer.native(x) + 0.5 * (x @ a.T) @ b.T)


def test_query_value_update_by_formula() -> None:
    """Queries and values have their own pairs; keys are the frozen layer's, bit for bit."""
    torch.manual_seed(0)
    layer = QueryValueLoRA(nn.Linear(6, 18), Widths(6, 6, 6), rank=2, scale=0.5)
    aq, bq, av, bv = torch.randn(2, 6), torch.randn(6, 2), torch.randn(2, 6), torch.randn(6, 2)
    names = ("query.a.weight", "query.b.weight", "value.a.weight", "value.b.weight")
    layer.load_state_dict(dict(zip(names, (aq, bq, av, bv), strict=True)), strict=False)
    x = torch.randn(3, 4, 6)
    q, k, v = layer(x).chunk(3, -1)
    native_q, native_k, native_v = layer.native(x).chunk(3, -1)
    torch.testing.assert_close(q, native_q + 0.5 * (x @ aq.T) @ bq.T)
    assert torch.equal(k, native_k)
    torch.testing.assert_close(v, native_v + 0.5 * (x @ av.T) @ bv.T)


@pytest.mark.parametrize("targets", TARGETS)
def test_merge(targets: str) -> None:
    """The merged backbone is a plain one with the same outputs."""
    method = trials.randomise(tiny(targets=targets, scale=0.5))
    before = trials.features(method.backbone)
    plain = trials.features(UnevenCLIP())
    merged = method.merge()
    after = trials.features(merged)
    for a, b, without in zip(after, before, plain, strict=True):
        assert (a - b).abs().max() <= 1e-5
        assert (a - without).abs().max() > 1e-3
    assert {type(m) for m in merged.modules()} == {type(m) for m in UnevenCLIP().modules()}
    assert {k: v.shape for k, v in merged.state_dict().items()} == {
        k: v.shape for k, v in UnevenCLIP().state_dict().items()
    }
    assert not any(p.requires_grad for p in merged.parameters())


@pytest.mark.parametrize("targets", TARGETS)
def test_unmerge_restores_every_bit(targets: str) -> None:
    method = trials.randomise(tiny(targets=targets))
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    before = trials.features(method.backbone)
    method.merge()
    method.unmerge()
    restored = method.state_dict()
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], state[name]) for name in state)
    assert all(torch.equal(a, b) for a, b in zip(trials.features(method.backbone), before, strict=True))
    trials.assert_learns(method)


def test_merge_twice_is_refused() -> None:
    method = tiny()
    method.merge()
    with pytest.raises(UsageError, match="unmerge"):
        method.merge()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_merge_refuses_what_is_not_finite(value: float) -> None:
    method = trials.randomise(tiny())
    text = method.backbone.towers["text"].blocks[1].attention
    assert isinstance(text.qkv, LoRALinear)
    with torch.no_grad():
        text.qkv.update.b.weight[0, 0] = value
    with pytest.raises(NonFiniteError, match="text block 1"):
        method.merge()
    assert isinstance(method.backbone.towers["vision"].blocks[0].attention.qkv, LoRALinear)
    assert method.trained_state()


def test_a_merged_lora_has_no_adapter() -> None:
    """Its tensors are not in the model then: an empty adapter must not be written, nor one be read into nothing."""
    method = trials.randomise(tiny())
    adapter = Adapter(method.trained_state(), method.identity())
    method.merge()
    with pytest.raises(UsageError, match="unmerge"):
        method.trained_state()
    with pytest.raises(UsageError, match="unmerge"):
        method.load_trained_state(adapter, "adapter.safetensors")


def test_labels() -> None:
    assert [tiny(targets=t).label for t in TARGETS] == ["LoRA", "LoRA (q, v)"]
