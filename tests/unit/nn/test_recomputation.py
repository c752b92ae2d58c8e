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
from petl_bench.nn.recomputation import Recomputation, attention, recomputed
from petl_bench.nn.transformer import Attention
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


# --- attention --------------------------------------------------------------------------------------------------------

ROWS, HEADS, TOKENS, WIDTH = 2, 4, 6, 32


def attended(kind: str, own: bool) -> tuple[list[Tensor | None], int]:
    """What attention gives, its gradients, and the bytes that it keeps, by our function or by torch's."""
    torch.manual_seed(0)
    masked, causal, grouped = kind == "mask", kind == "causal", kind == "grouped"
    q = torch.randn(ROWS, HEADS, TOKENS, WIDTH // HEADS, requires_grad=True)
    k, v = (torch.randn(ROWS, HEADS // (1 + grouped), TOKENS, WIDTH // HEADS, requires_grad=True) for _ in range(2))
    if kind == "frozen values":
        v.requires_grad_(False)
    mask = torch.rand(ROWS, 1, 1, TOKENS) > 0.3 if masked else None
    saved = SavedActivations(nn.Identity())
    with saved:
        if own:
            y = attention(q, k, v, mask, causal, grouped)
        else:
            y = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)
    y.backward(torch.randn(y.shape))
    return [y.detach(), q.grad, k.grad, v.grad], saved.bytes


@pytest.mark.parametrize("kind", ["plain", "mask", "causal", "grouped", "frozen values"])
def test_attention_is_torch_s_to_the_last_bit_and_keeps_less(kind: str) -> None:
    expected, kept_by_torch = attended(kind, own=False)
    found, kept = attended(kind, own=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine is theirs is None or (mine is not None and theirs is not None and mine.equal(theirs))
    assert kept < kept_by_torch


def test_attention_of_fp32_under_autocast_has_gradients_in_fp32() -> None:
    """Autocast reads copies in lower precision; what a linear layer gave would have it already."""
    q, k, v = (torch.randn(ROWS, HEADS, TOKENS, WIDTH // HEADS, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        y = attention(q, k, v, None, False, False)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.float32 and x.grad.any() for x in (q, k, v))


@pytest.mark.parametrize("trained", ["nothing", "bias", "weight"])
def test_what_attention_gives_is_kept_once_at_most(trained: str) -> None:
    """The layer behind it keeps it where it is trained; where it is frozen, nothing does."""
    torch.manual_seed(0)
    layer = Attention(WIDTH, HEADS).requires_grad_(False)
    if trained != "nothing":
        layer.out.get_parameter(trained).requires_grad_(True)
    x, saved = torch.randn(ROWS, TOKENS, WIDTH, requires_grad=True), SavedActivations(layer)
    with saved:
        layer(x)
    tokens = ROWS * TOKENS * WIDTH * 4
    statistics = ROWS * HEADS * TOKENS * 4
    assert saved.bytes == (4 * tokens + statistics if trained == "weight" else 3 * tokens)
