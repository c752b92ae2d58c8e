"""Trainings in other precisions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petl_bench.runs.frozen import HeldWeights
from tests.integration.fixture_run import only_record, run

#: configurations with options that make them smaller still
SMALL = {
    "fixture_lora": (),
    "fixture_blip_uniadapter": (
        *("--model.init_args.task.init_args.queue_size=16", "--model.init_args.task.init_args.reranking.k=2"),
    ),
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_attention_with_a_gradient_is_plain_on_a_cpu_in_bf16_alone(
    precision: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend, fused = nn.functional.scaled_dot_product_attention, set[bool]()

    def spied(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.is_grad_enabled() and q.requires_grad:
            fused.add(torch.backends.cuda.flash_sdp_enabled())  # which decides for CPUs, too
        return attend(q, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spied)
    checkpointed = "--model.init_args.backbone.init_args.gradient_checkpointing=true"
    options = (f"--trainer.precision={precision}", "--trainer.limit_train_batches=1", checkpointed)
    assert run("fit", "fixture_adaptformer", dataset, tmp_path, *options) == 0
    assert fused == {precision == "32-true"}
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("config", SMALL)
def test_frozen_weights_in_bf16_change_no_bit(
    config: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is trained, of the figures on validation that choose the epoch, and of the test."""
    options = (
        *("--trainer.precision=bf16-mixed", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"),
        *("--best_on_val=true", "--data.init_args.val_videos=4", *SMALL[config]),
    )
    held: list[int] = []

    def counted(self: HeldWeights, *args: Any) -> None:
        original(self, *args)
        held.append(len(self))

    original = HeldWeights.__init__
    monkeypatch.setattr(HeldWeights, "__init__", counted)
    assert run("fit", config, dataset, tmp_path / "held", *options) == 0
    monkeypatch.setattr("petl_bench.runs.frozen._frozen_weights", lambda method: [])
    assert run("fit", config, dataset, tmp_path / "plain", *options) == 0
    assert held[0] > 20
    assert held[1:] == [0]
    weights, ranks, figures = zip(*(outcome(tmp_path / name) for name in ("held", "plain")), strict=True)
    assert all(weights[0][name].equal(tensor) for name, tensor in weights[1].items())
    assert all(np.array_equal(ranks[0][name], found) for name, found in ranks[1].items())
    assert figures[0] == figures[1]


def outcome(runs: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, str]]]:
    """The adapter, the ranks, and what was logged but for times."""
    folder, _ = only_record(runs)
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        logged = [{k: v for k, v in row.items() if k == "loss" or k.startswith("val_")} for row in csv.DictReader(file)]
    assert any(row.get("loss") for row in logged)
    assert any(row.get("val_rsum") for row in logged)
    return load_file(folder / "adapter.safetensors"), dict(np.load(folder / "ranks.npz")), logged
