"""What layers give under autocast, and what they keep of it for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.adaptformer import AdaptFormer
from methods.convpass import Convpass
from methods.cross_modal_adapter import CrossModalAdapter
from methods.lora import LoRA
from methods.mv_adapter import MVAdapter
from methods.st_adapter import STAdapter
from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.method import Method
from petl_bench.nn import mixed_precision
from petl_bench.nn.mixed_precision import LayerNorm, Linear, taken_over
from petl_bench.runs.cost import SavedActivations
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch

ROWS, WIDE, NARROW = 6, 16, 5
IN_BF16: dict[str, Any] = {"device_type": "cpu", "dtype": torch.bfloat16, "cache_enabled": False}


def step(module: nn.Module, give: Callable[[Tensor], Tensor], x: Tensor, **autocast: Any) -> tuple[list[Any], int]:
    """Output and gradients of one pass, and the bytes that it keeps."""
    x, saved = x.detach().clone().requires_grad_(x.requires_grad), SavedActivations(module)
    module.zero_grad()
    with saved, torch.autocast(**IN_BF16 | autocast):
        y = give(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype))
    return [y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())], saved.bytes


def same(found: list[Any], expected: list[Any]) -> bool:
    """To the last bit, and in the same precision."""
    pairs = zip(found, expected, strict=True)
    return all(a is b if a is None or b is None else a.dtype == b.dtype and a.equal(b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", ["weight", "input", "both"])
def test_a_linear_layer_keeps_no_copy_of_its_weight(dtype: torch.dtype, bias: bool, trained: str) -> None:
    torch.manual_seed(0)
    layer = Linear(WIDE, NARROW, bias)
    layer.weight.requires_grad_(trained != "input")
    x = torch.randn(2, ROWS, WIDE).to(dtype).requires_grad_(trained != "weight")
    found, kept = step(layer, layer, x)
    expected, kept_by_torch = step(layer, lambda x: F.linear(x, layer.weight, layer.bias), x)
    assert same(found, expected)
    assert kept == (2 * ROWS * WIDE * 2 if trained != "input" else 0)
    assert kept_by_torch == kept + (WIDE * NARROW * 2 if trained != "weight" else 0)


def test_a_linear_layer_is_torch_s_without_autocast() -> None:
    layer, x = Linear(WIDE, NARROW), torch.randn(ROWS, WIDE, requires_grad=True)
    found, _ = step(layer, layer, x, enabled=False)
    assert same(found, step(layer, lambda x: F.linear(x, layer.weight, layer.bias), x, enabled=False)[0])
    assert found[0].dtype == torch.float32


@pytest.mark.parametrize("as_given", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_norm_in_fp32_keeps_what_it_was_given(as_given: bool, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, whose autocast hands norms a copy in fp32: half of the bytes are kept, and statistics."""
    torch.manual_seed(0)
    norm = LayerNorm(WIDE, as_given=as_given).requires_grad_(trained)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, ROWS, WIDE).bfloat16().requires_grad_()

    def as_cuda_does(x: Tensor) -> Tensor:
        y = F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return y.to(x.dtype) if as_given else y

    expected, before = step(norm, as_cuda_does, x)
    monkeypatch.setattr(mixed_precision, "normalised_in_fp32", lambda x: True)
    found, kept = step(norm, norm, x)
    assert same(found, expected)
    statistics = 2 * 2 * ROWS * 4
    assert kept == 2 * ROWS * WIDE * 2 + statistics
    assert before == 2 * ROWS * WIDE * 4 + statistics


def test_a_norm_is_taken_over_with_its_parameters() -> None:
    native = nn.LayerNorm(WIDE, eps=1e-3)
    norm = taken_over(native)
    assert isinstance(norm, LayerNorm)
    assert norm.weight is native.weight
    assert norm.bias is native.bias
    x = torch.randn(ROWS, WIDE)
    assert norm(x).equal(native(x))
    for other in (nn.Identity(), nn.LayerNorm(WIDE, bias=False), nn.LayerNorm(WIDE, elementwise_affine=False)):
        assert taken_over(other) is other


def of_method(method: Method) -> tuple[list[Any], int]:
    method.zero_grad()
    method.task.before_step(0.5, 1)
    torch.manual_seed(1)
    saved = SavedActivations(method)
    with saved, torch.autocast(**IN_BF16):
        loss, _ = method.task.loss(method.backbone, make_batch(method.backbone))
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in method.parameters())], saved.bytes


@pytest.mark.parametrize(
    ("kind", "backbone", "task"),
    [
        *((kind, CLIP, Retrieval) for kind in (AdaptFormer, Convpass, CrossModalAdapter, LoRA, MVAdapter, STAdapter)),
        (UniAdapter, BLIP, MatchingRetrieval),
    ],
    ids=lambda kind: kind.__name__,
)
def test_steps_are_those_of_torch_s_layers(
    kind: type[Method], backbone: type[Any], task: type[Retrieval], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    method = kind(backbone=backbone("tiny", None), task=task.tiny()).adapt().train()
    found, kept = of_method(method)
    monkeypatch.setattr(Linear, "forward", nn.Linear.forward)
    monkeypatch.setattr(mixed_precision._CastLinear, "apply", lambda x, w, b, dtype: F.linear(x, w, b))
    expected, before = of_method(method)
    assert same(found, expected)
    assert kept < before
