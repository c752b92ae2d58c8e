"""What is computed again in the backward pass, and what is kept for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.adaptformer import AdaptFormer
from methods.convpass import Convpass
from methods.lora import LoRA
from methods.mv_adapter import MVAdapter
from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.method import Method
from petl_bench.nn.recomputation import Recomputation, recomputed
from petl_bench.runs.cost import SavedActivations
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch


def step(kind: type[Method], backbone: type[Any], task: type[Retrieval], what: Recomputation) -> tuple[Any, int]:
    """Loss and gradients of a step with dropout where the backbone has it, and the bytes that it saves."""
    torch.manual_seed(0)
    made = backbone("tiny", None, gradient_checkpointing=what)
    method = kind(backbone=made, task=task.tiny()).adapt().train()
    method.task.before_step(0.5, 1)
    torch.manual_seed(1)
    saved = SavedActivations(method)
    with saved:
        loss, _ = method.task.loss(method.backbone, make_batch(made))
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return gradients | {"loss": loss.detach()}, saved.bytes


@pytest.mark.parametrize(
    ("kind", "backbone", "task"),
    [
        *((kind, CLIP, Retrieval) for kind in (AdaptFormer, Convpass, LoRA, MVAdapter)),
        *((kind, BLIP, Retrieval) for kind in (AdaptFormer, LoRA)),
        (UniAdapter, BLIP, MatchingRetrieval),
    ],
    ids=lambda kind: kind.__name__,
)
def test_gradients_are_equal_to_the_last_bit_and_less_is_kept(
    kind: type[Method], backbone: type[Any], task: type[Retrieval]
) -> None:
    expected, everything = step(kind, backbone, task, False)
    found, some = step(kind, backbone, task, "activations")
    _, least = step(kind, backbone, task, True)
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert least < some < everything


def test_of_a_frozen_branch_its_input_alone_is_kept() -> None:
    """Before, what QuickGELU keeps, four times as wide, and two statistics of LN2 for each token, too."""
    _, everything = step(LoRA, CLIP, Retrieval, False)
    _, some = step(LoRA, CLIP, Retrieval, "activations")
    backbone = CLIP("tiny", None)
    batch = make_batch(backbone)
    end = batch.words.ids.argmax(-1)
    grid = backbone.vision.grid
    assert grid is not None
    clips, frames = batch.clips.mask.shape
    rows = {"vision": (clips * frames, 1 + grid[0] * grid[1]), "text": (len(end), int(end.max()) + 1)}
    numbers = 0
    for name, (count, tokens) in rows.items():
        tower = backbone.towers[name]
        # The last block computes one token of each row.
        numbers += count * ((len(tower.blocks) - 1) * tokens + 1) * (4 * tower.width + 2)
    assert everything - some == 4 * numbers


def test_inputs_of_what_is_recomputed_count_once() -> None:
    layer = nn.Linear(3, 5)
    x = torch.randn(2, 3)
    saved = SavedActivations(layer)
    with saved:
        y: Tensor = recomputed(lambda x: layer(x).exp(), x) + recomputed(lambda x: layer(x).sin(), x)
    assert saved.bytes == x.nbytes
    assert y.requires_grad


def test_other_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from petl_bench.main import main

    option = "--model.init_args.backbone.init_args.gradient_checkpointing"
    assert main(["params", "--config", "fixture_adaptformer", f"{option}=blocks"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("petl-bench: error: ")
    assert "gradient_checkpointing" in error
    assert "activations" in error
    for taken in ("activations", "true", "false"):
        assert main(["params", "--config", "fixture_adaptformer", f"{option}={taken}"]) == 0
