"""Frozen weights that are held in bf16 while a method is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from methods.adaptformer import AdaptFormer
from methods.bitfit import BitFit
from methods.full import Full
from methods.lora import LoRA
from methods.mv_adapter import MVAdapter
from methods.tempme import TempMe
from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.method import Method
from petl_bench.runs.cost import SavedActivations
from petl_bench.runs.frozen import FrozenInBf16, HeldWeights
from petl_bench.tasks.base import Task
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import asked, make_batch

#: method, backbone, task
CASES = [
    *((kind, CLIP, Retrieval) for kind in (AdaptFormer, LoRA, BitFit, MVAdapter, TempMe)),
    *((kind, BLIP, Retrieval) for kind in (AdaptFormer, LoRA, BitFit)),
    *((kind, BLIP, MatchingRetrieval) for kind in (LoRA, UniAdapter)),
    (AdaptFormer, BLIPVQA, AnswerGeneration),
]


def adapted(kind: type[Method], backbone: type[Any], task: type[Task]) -> Method:
    torch.manual_seed(0)
    return kind(backbone=backbone("tiny", None), task=task.tiny()).adapt().train()


def step(method: Method) -> tuple[dict[str, Tensor], int]:
    """Loss and gradients of one step as Lightning takes it in bf16-mixed, and the bytes that it saves."""
    method.zero_grad()
    method.task.before_step(0.5, 1)
    torch.manual_seed(1)
    saved = SavedActivations(method)
    with saved, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        loss, _ = method.task.loss(method.backbone, asked(make_batch(method.backbone)))
    loss.backward()
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}, saved.bytes


@pytest.mark.parametrize(("kind", "backbone", "task"), CASES, ids=lambda kind: kind.__name__)
def test_gradients_are_equal_to_the_last_bit(kind: type[Method], backbone: type[Any], task: type[Task]) -> None:
    method = adapted(kind, backbone, task)
    plain, kept = step(method)
    held = HeldWeights(method, torch.bfloat16)
    assert len(held) > 0
    found, kept_now = step(method)
    assert plain.keys() == found.keys()
    assert all(plain[name].equal(found[name]) for name in plain)
    assert any(gradient.any() for name, gradient in found.items() if name != "loss")
    assert kept_now < kept


def test_no_copy_of_a_frozen_weight_is_saved() -> None:
    """Before, of each but those of the first blocks, in front of which nothing is trained."""
    method = adapted(AdaptFormer, CLIP, Retrieval)
    _, before = step(method)
    HeldWeights(method, torch.bfloat16)
    _, after = step(method)
    later = [block for tower in method.backbone.towers.values() for block in tower.blocks[1:]]
    weights = [place.layer.weight for block in later for place in set(block.linears.values())]
    assert all(isinstance(weight, Tensor) and weight.dtype == torch.bfloat16 for weight in weights)
    assert before - after == sum(weight.nbytes for weight in weights if isinstance(weight, Tensor))


def test_nothing_is_held_of_what_is_trained() -> None:
    assert len(HeldWeights(adapted(Full, CLIP, Retrieval), torch.bfloat16)) == 0


def test_what_is_read_in_fp32_stays() -> None:
    """The decoder's head computes in fp32, and embeddings are no products; patches and blocks are held."""
    method = adapted(AdaptFormer, BLIPVQA, AnswerGeneration)
    backbone: Any = method.backbone
    held = HeldWeights(method, torch.bfloat16)
    decoder = backbone.decoder
    assert decoder.transform.weight.dtype == decoder.token_embedding.weight.dtype == torch.float32
    assert backbone.vision.patch_embedding.weight.dtype == torch.bfloat16
    block: Any = decoder.blocks[0]
    native = block.inner
    assert native.memory_attention.key_value.weight.dtype == native.fc.weight.dtype == torch.bfloat16
    held.put_back()
    assert {p.dtype for p in method.parameters()} == {torch.float32}


@pytest.mark.parametrize("tied", ["a trained layer", "an embedding"])
def test_a_weight_that_something_else_holds_stays(tied: str) -> None:
    """Whether it has the parameter itself, or another one on the same storage."""
    method = adapted(AdaptFormer, CLIP, Retrieval)
    backbone: Any = method.backbone
    fc = backbone.vision.blocks[1].linears["up"].layer
    if tied == "an embedding":
        backbone.other = nn.Embedding(*fc.weight.shape, _weight=fc.weight)
        backbone.other.weight = fc.weight
    else:
        backbone.other = nn.Linear(1, 1)
        backbone.other.weight = nn.Parameter(fc.weight.detach().view_as(fc.weight))
    before = len(HeldWeights(adapted(AdaptFormer, CLIP, Retrieval), torch.bfloat16))
    assert len(HeldWeights(method, torch.bfloat16)) == before - 1
    assert fc.weight.dtype == torch.float32


class Look(Callback):
    """Counts parameters in bf16 in each step, and fails in the second one if it is told to."""

    def __init__(self, fails: bool) -> None:
        self.seen: list[int] = []
        self.fails = fails

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self.seen.append(sum(p.dtype == torch.bfloat16 for p in pl_module.parameters()))
        if self.fails and len(self.seen) == 2:
            raise KeyError("a fault")


def fit(method: Method, precision: Any, fails: bool = False) -> list[int]:
    look = Look(fails)
    silent: dict[str, Any] = {
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
        **{"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1},
    }
    trainer = Trainer(precision=precision, callbacks=[FrozenInBf16(), look], **silent)
    steps: Any = [make_batch(method.backbone)] * 2
    if fails:
        with pytest.raises(KeyError, match="a fault"):
            trainer.fit(method, DataLoader(steps, batch_size=None))
    else:
        trainer.fit(method, DataLoader(steps, batch_size=None))
    return look.seen


@pytest.mark.parametrize("fails", [False, True])
def test_values_are_put_back(fails: bool) -> None:
    """The very same memory, whose values nothing has changed, whether training ends or fails."""
    method = adapted(LoRA, BLIP, MatchingRetrieval)
    frozen = {name: p for name, p in method.named_parameters() if not p.requires_grad}
    before = {name: (p.data_ptr(), p.clone()) for name, p in frozen.items()}
    seen = fit(method, "bf16-mixed", fails)
    assert len(seen) == 2
    assert min(seen) > 20
    assert all(p.data_ptr() == before[name][0] for name, p in frozen.items())
    assert all(p.equal(before[name][1]) for name, p in frozen.items())


def test_nothing_is_held_in_full_precision() -> None:
    assert fit(adapted(LoRA, CLIP, Retrieval), "32-true") == [0, 0]
