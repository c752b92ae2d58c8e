"""`AdamWCosine` with TempMe's options against the steps of its released training loop (golden `adamw_tempme__*`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from petl_bench.optimizers import AdamWCosine, TrainableParameter
from tests.golden.helpers import Case, assert_output, golden_files

OPTIONS = ("lr", "weight_decay", "betas", "eps", "total_steps", "warmup_steps", "clip_grad_norm")


def check(path: Path, matrices: bool) -> None:
    """Ten steps of clipping, optimiser and schedule.

    Args:
        path: of the case.
        matrices: give vectors to the recipe as matrices of one row, which decay.
    """
    case = Case(path)
    options = case.options(*OPTIONS)
    steps = options["total_steps"]
    recipe = AdamWCosine(
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        warmup=options["warmup_steps"] / steps,
        betas=tuple(options["betas"]),
        eps=options["eps"],
        clip_norm=options["clip_grad_norm"],
    )
    own = {name: nn.Parameter(torch.atleast_2d(p) if matrices else p) for name, p in case.group("param").items()}
    optimizer, schedule = recipe.build([TrainableParameter(n, p, False, False) for n, p in own.items()], steps)
    for step in range(steps):
        for name, parameter in own.items():
            parameter.grad = case.tensors[f"in.grad_{step}.{name}"].view_as(parameter).clone()
        assert recipe.clip_norm is not None
        norm = nn.utils.clip_grad_norm_(own.values(), recipe.clip_norm)
        assert norm.item() == pytest.approx(case.json["grad_norms"][step], rel=1e-6)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(case.json["lr_used"][step], rel=1e-9)
        optimizer.step()
        schedule.step()
        for name, parameter in own.items():
            expected = case.tensors[f"out.{name}_after_{step}"].view_as(parameter)
            assert_output(parameter, expected, f"{name} after step {step}")


@pytest.mark.parametrize("path", golden_files("adamw_tempme__*"))
def test_steps_are_the_released_ones(path: Path) -> None:
    """All that this line trains are matrices; a vector would not decay here (see `AdamWCosine`), and does there."""
    check(path, matrices=True)
    if any(tensor.ndim < 2 for tensor in Case(path).group("param").values()):
        with pytest.raises(AssertionError, match="after step"):
            check(path, matrices=False)
