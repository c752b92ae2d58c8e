"""What autograd keeps for a training step: adapters are cheap because frozen layers keep little (P2 and P4)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from methods.adaptformer import AdaptFormer
from methods.full import Full
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.method import Method
from petl_bench.nn.layers import QuickGELU
from petl_bench.runs.cost import synthetic_batch
from petl_bench.tasks.retrieval import Retrieval

#: A sixth of the tiny vision tower's width. A wider one (64 in ViT-B is a twelfth, 64 here would be two thirds) would
#: hide behind its own activations what frozen layers do not keep.
BOTTLENECK = 16


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Storages kept for the backward pass, each once, without those of a module's parameters."""

    def __init__(self, module: torch.nn.Module | None = None) -> None:
        super().__init__(self.keep, lambda tensor: tensor)
        self.parameters = {p.untyped_storage().data_ptr() for p in module.parameters()} if module else set()
        self.storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.parameters:
            self.storages[storage.data_ptr()] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def step(method: Method, batch: Batch) -> int:
    """Loss and gradients of one step; returns the bytes kept in between."""
    method.train()
    saved = Saved(method)
    with saved:
        loss, _ = method.task.loss(method.backbone, batch)
    loss.backward()
    return saved.bytes


def build(method: type[Method], **options: Any) -> Method:
    return method(backbone=CLIP("tiny", None), task=Retrieval(), **options).adapt()


def frozen_with_gradient(method: Method) -> list[str]:
    return [name for name, p in method.named_parameters() if not p.requires_grad and p.grad is not None]


def test_adapters_keep_at_most_65_percent_of_full_fine_tuning() -> None:
    full, adapter = build(Full), build(AdaptFormer, bottleneck_dim=BOTTLENECK)
    batch = synthetic_batch(full.backbone.spec, 4, 4, 16)
    kept = {method: step(method, batch) for method in (full, adapter)}
    assert 0 < kept[adapter] <= 0.65 * kept[full]
    assert frozen_with_gradient(adapter) == []
    assert all(p.grad is not None for p in adapter.parameters() if p.requires_grad)


# --- the stock attention's trap: another, slower kernel once its weights are frozen ---------------------------------


class Kernels(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_frozen_towers_run_the_same_kernels() -> None:
    clip = CLIP("tiny", None)
    batch = synthetic_batch(clip.spec, 2, 2, 8)
    counts = []
    for trained in (False, True):
        clip.requires_grad_(trained)
        with Kernels() as kernels:
            clip.encode_video(batch.clips)
            clip.encode_text(batch.words)
        # What grad mode adds is bookkeeping; the products are what costs.
        counts.append({name: n for name, n in kernels.counts.items() if "mm" in name or "attention" in name})
    frozen, trained = counts
    assert frozen == trained
    assert "aten.bmm.default" not in frozen
    assert frozen["aten.addmm.default"] == 4 * sum(len(tower.blocks) for tower in clip.towers.values())


# --- lean QuickGELU -------------------------------------------------------------------------------------------------


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def test_quick_gelu_equals_the_plain_expression() -> None:
    x = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(101, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = [function(x) for function in (QuickGELU(), quick_gelu)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-12, rtol=1e-12)
    lean, plain = (torch.autograd.grad((output * weights).sum(), x)[0] for output in outputs)
    torch.testing.assert_close(lean, plain, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(QuickGELU(), x)


def test_quick_gelu_equals_the_plain_expression_in_single_precision() -> None:
    x = torch.linspace(-20, 20, 4001, requires_grad=True)
    outputs = [function(x) for function in (QuickGELU(), quick_gelu)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-6)
    lean, plain = (torch.autograd.grad(output.sum(), x)[0] for output in outputs)
    torch.testing.assert_close(lean, plain, atol=1e-6, rtol=1e-6)


def test_quick_gelu_keeps_one_tensor() -> None:
    x = torch.randn(5, 7, requires_grad=True)
    kept = []
    for function in (QuickGELU(), quick_gelu):
        saved = Saved()
        with saved:
            output = function(x)
        output.sum().backward()
        kept.append(saved)
    lean, plain = kept
    assert lean.bytes == x.untyped_storage().nbytes()
    assert plain.bytes == 2 * lean.bytes  # the plain expression keeps the gate as well
