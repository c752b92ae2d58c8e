"""Trainings in other precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integration.fixture_run import run


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
