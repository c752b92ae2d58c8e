import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods.mv_adapter import OfficialMVAdapter
from petl_bench.optimizers import (
    AdamWCosine,
    BertAdam,
    OptimizerRecipe,
    TrainableParameter,
    bert_warmup_cosine,
    warmup_cosine,
)


def named(name: str, *shape: int, pretrained: bool = False, bias: bool = False) -> TrainableParameter:
    return TrainableParameter(name, nn.Parameter(torch.ones(shape)), pretrained, bias)


WEIGHT, SCALE, BIAS = named("down.weight", 2, 3), named("norm.weight", 3), named("down.bias", 2, bias=True)
UNFROZEN, UNFROZEN_BIAS = named("proj", 3, 3, pretrained=True), named("fc.bias", 3, pretrained=True, bias=True)
ALL = [WEIGHT, SCALE, BIAS, UNFROZEN, UNFROZEN_BIAS]


def groups(recipe: OptimizerRecipe, parameters: list[TrainableParameter]) -> list[tuple[set[str], float, float]]:
    """Names, peak rate and decay of each group."""
    optimizer, schedule = recipe.build(parameters, 10)
    names = {id(p.parameter): p.name for p in parameters}
    return [
        ({names[id(p)] for p in group["params"]}, float(rate), group["weight_decay"])
        for group, rate in zip(optimizer.param_groups, schedule.base_lrs, strict=True)
    ]


def test_adamw_decays_matrices_only() -> None:
    assert groups(AdamWCosine(lr=0.1, weight_decay=0.3), ALL) == [
        ({"down.weight", "proj"}, 0.1, 0.3),
        ({"norm.weight", "down.bias", "fc.bias"}, 0.1, 0.0),
    ]


def test_adamw_takes_all_its_options() -> None:
    optimizer, _ = AdamWCosine(lr=0.1, betas=(0.8, 0.999), eps=1e-6).build(ALL, 10)
    assert all((group["betas"], group["eps"]) == ((0.8, 0.999), 1e-6) for group in optimizer.param_groups)


def test_official_groups_know_the_backbone_from_what_was_added() -> None:
    assert groups(OfficialMVAdapter(lr=0.1, pretrained_lr=0.01, weight_decay=0.3), ALL) == [
        ({"down.weight", "norm.weight"}, 0.1, 0.3),
        ({"down.bias"}, 0.1, 0.0),
        ({"proj", "fc.bias"}, 0.01, 0.3),
    ]


@pytest.mark.parametrize("recipe", [AdamWCosine(), OfficialMVAdapter()])
def test_empty_groups_are_left_out(recipe: OptimizerRecipe) -> None:
    assert [names for names, _, _ in groups(recipe, [BIAS])] == [{"down.bias"}]


def test_schedules_start_at_zero_and_end_there() -> None:
    for schedule in (warmup_cosine, bert_warmup_cosine):
        assert schedule(0.0, 0.1) == 0
        assert schedule(0.05, 0.1) == pytest.approx(0.5)
        assert schedule(1.0, 0.1) == pytest.approx(0, abs=1e-12)
    assert warmup_cosine(0.1, 0.1) == 1
    assert bert_warmup_cosine(0.1, 0.1) == pytest.approx(0.5 * (1 + math.cos(0.1 * math.pi)))
    assert warmup_cosine(0.0, 0.0) == bert_warmup_cosine(0.0, 0.0) == 1


def bert_adam(*shapes: tuple[int, ...], **options: Any) -> tuple[BertAdam, list[nn.Parameter]]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    return BertAdam(parameters, lr=0.1, **options), parameters


def give_gradients(parameters: list[nn.Parameter], scale: float = 1.0) -> None:
    for parameter in parameters:
        parameter.grad = scale * torch.randn_like(parameter)


def test_bert_adam_by_formula() -> None:
    """Three steps of the update written out, with gradients above and below the bound of 1."""
    optimizer, (parameter,) = bert_adam((3, 2), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    expected = parameter.detach().clone().double()
    m, v = torch.zeros_like(expected), torch.zeros_like(expected)
    for scale in (0.01, 10.0, 0.1):
        give_gradients([parameter], scale)
        assert parameter.grad is not None
        gradient = parameter.grad.double()
        gradient = gradient / max(1.0, gradient.norm().item() + 1e-6)
        m = 0.9 * m + 0.1 * gradient
        v = 0.98 * v + 0.02 * gradient**2
        expected = expected - 0.1 * (m / (v.sqrt() + 1e-6) + 0.2 * expected)
        optimizer.step()
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_bert_adam_bounds_each_tensor_by_itself_and_leaves_gradients_alone() -> None:
    optimizer, (large, small) = bert_adam((4,), (4,))
    large.grad, small.grad = torch.full((4,), 50.0), torch.full((4,), 0.1)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[large]["exp_avg"], torch.full((4,), 0.1 * 0.5))
    torch.testing.assert_close(optimizer.state[small]["exp_avg"], torch.full((4,), 0.1 * 0.1))
    assert large.grad.eq(50.0).all()


def test_bert_adam_skips_what_has_no_gradient() -> None:
    optimizer, (trained, unused) = bert_adam((4,), (4,), weight_decay=0.5)
    before = unused.detach().clone()
    give_gradients([trained])
    optimizer.step()
    assert torch.equal(unused, before)
    optimizer.zero_grad()
    optimizer.step()  # nothing at all to do


def test_bert_adam_returns_the_loss_of_its_closure() -> None:
    optimizer, (parameter,) = bert_adam((2,))

    def closure() -> torch.Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    before = parameter.square().sum().item()
    assert optimizer.step(closure).item() == before
    assert parameter.square().sum().item() < before


def test_bert_adam_resumes_exactly() -> None:
    optimizer, parameters = bert_adam((3, 2), (4,), weight_decay=0.1)
    give_gradients(parameters)
    optimizer.step()
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    resumed = BertAdam(copies, lr=0.7)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    give_gradients(parameters)
    for own, other in zip(parameters, copies, strict=True):
        assert own.grad is not None
        other.grad = own.grad.clone()
    optimizer.step()
    resumed.step()
    assert all(torch.equal(own, other) for own, other in zip(parameters, copies, strict=True))


class Calls(TorchDispatchMode):
    """Counts operations that reach torch's dispatcher: kernels to launch, on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scale", [0.001, 10.0])
def test_bert_adam_launches_do_not_grow_with_the_number_of_tensors(scale: float) -> None:
    counts = []
    for tensors in (2, 50):
        optimizer, parameters = bert_adam(*[(3,)] * tensors)
        give_gradients(parameters, scale)
        optimizer.step()
        with Calls() as calls:
            optimizer.step()
        counts.append(calls.count)
    assert counts[0] == counts[1] <= 10
