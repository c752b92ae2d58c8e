"""BertAdam and AdamW step by step against the official optimiser and torch's AdamW (golden `bert_adam__*`)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from petl_bench.optimizers import AdamWCosine, BertAdam, TrainableParameter
from tests.golden.helpers import Case, assert_output, golden_files


def parameters(case: Case) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(value.clone()) for name, value in case.group("param").items()}


def take_step(case: Case, own: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    """One step as the official runner takes it: gradients as stored, global clipping if any, the rate of that step."""
    for name, parameter in own.items():
        gradient = case.tensors.get(f"in.grad_{name}.{step}")
        parameter.grad = None if gradient is None else gradient.clone()
    if case.json["kwargs"]["global_clip"] is not None:
        nn.utils.clip_grad_norm_(own.values(), case.json["kwargs"]["global_clip"])
    rates = {
        id(own[name]): rate
        for golden, rate in zip(case.json["groups"], case.json["lr_applied_per_step"][step], strict=True)
        for name in golden["params"]
        if name in own
    }
    for group in optimizer.param_groups:
        (group["lr"],) = {rates[id(p)] for p in group["params"]}
    optimizer.step()


def compare(case: Case, own: dict[str, nn.Parameter], which: str, step: int) -> None:
    expected = case.group(f"out.{which}")
    for name, parameter in own.items():
        if f"{name}.{step}" in expected:
            assert_output(parameter, expected[f"{name}.{step}"], f"{name} after step {step}")
        else:
            assert torch.equal(parameter, case.tensors[f"param.{name}"]), f"{name} got no gradient, but moved"


@pytest.mark.parametrize("path", golden_files("bert_adam__*"))
def test_bert_adam_follows_the_official_one(path: Path) -> None:
    case = Case(path)
    own = parameters(case)
    groups: list[dict[str, Any]] = [
        {"params": [own[name] for name in group["params"]], "weight_decay": group["weight_decay"]}
        for group in case.json["groups"]
    ]
    optimizer = BertAdam(
        groups,
        lr=1.0,
        betas=tuple(case.json["betas"]),
        eps=case.json["eps"],
        max_norm=case.json["max_grad_norm"],
    )
    for step in range(case.json["kwargs"]["steps"]):
        take_step(case, own, optimizer, step)
        compare(case, own, "bertadam", step)
    for name in own:
        moments = {"m": "exp_avg", "v": "exp_avg_sq"}
        for golden, key in moments.items():
            expected = case.tensors.get(f"out.bertadam.state_{golden}_{name}")
            if expected is not None:
                assert_output(optimizer.state[own[name]][key], expected, f"{golden} of {name}")


def decay_as_given(optimizer: torch.optim.Optimizer, own: dict[str, nn.Parameter], decays: dict[str, float]) -> None:
    """Groups by the decays of a case that decays vectors or spares matrices, which no recipe of ours does."""
    options = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    optimizer.param_groups.clear()
    for name, parameter in own.items():
        optimizer.add_param_group(options | {"params": [parameter], "weight_decay": decays[name]})


@pytest.mark.parametrize("path", golden_files("bert_adam__*"))
def test_adamw_recipe_is_plain_adamw(path: Path) -> None:
    case = Case(path)
    own = parameters(case)
    trained = {name for group in case.json["groups"] for name in group["params"] if f"in.grad_{name}.0" in case.tensors}
    decays = {name: group["weight_decay"] for group in case.json["groups"] for name in group["params"]}
    own = {name: own[name] for name in sorted(trained)}
    recipe = AdamWCosine(weight_decay=max(decays.values()), betas=tuple(case.json["betas"]))
    named = [TrainableParameter(name, p, pretrained=False, bias=p.ndim < 2) for name, p in own.items()]
    optimizer, _ = recipe.build(named, case.json["kwargs"]["steps"])
    if any((decays[name] > 0) != (p.ndim >= 2) for name, p in own.items()):
        decay_as_given(optimizer, own, decays)
    for step in range(case.json["kwargs"]["steps"]):
        take_step(case, own, optimizer, step)
        compare(case, own, "adamw", step)
