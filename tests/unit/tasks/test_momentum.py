from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from petl_bench.errors import UsageError
from petl_bench.tasks import momentum
from petl_bench.tasks.momentum import FeatureQueue, MomentumCopy


class Tied(nn.Module):
    """One module under two names, one parameter in two modules, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.other = nn.Linear(3, 3)
        self.other.weight = self.first.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.other(self.again(self.first(x))))


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def test_a_copy_of_what_is_trained_equals_a_full_copy() -> None:
    module, slow, x = Tied(), Tied(), torch.randn(2, 3)
    copy = MomentumCopy(trained(module), 0.9)
    optimizer = torch.optim.SGD(trained(module).values(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()
        copy.update(module)
        with torch.no_grad():
            for average, parameter in zip(slow.parameters(), module.parameters(), strict=True):
                average.copy_(0.9 * average + 0.1 * parameter)
        torch.testing.assert_close(copy.call(module, x), slow(x), rtol=1e-6, atol=1e-7)
        assert not copy.call(module, x).equal(module(x))


def test_a_call_leaves_the_module_as_it_was() -> None:
    module, x = Tied(), torch.randn(2, 3)
    copy = MomentumCopy(trained(module), 0.9)
    for average in copy.averages.values():
        average.zero_()
    before, parameters = module(x), dict(module.named_parameters(remove_duplicate=False))
    assert not copy.call(module, x).requires_grad
    after = dict(module.named_parameters(remove_duplicate=False))
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameters[name] for name in after)
    assert module(x).equal(before)


def test_under_autocast_the_module_keeps_its_own_weights_and_gradients() -> None:
    module, x = Tied(), torch.randn(2, 3)
    copy = MomentumCopy(trained(module), 0.9)
    for average in copy.averages.values():
        average.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        copy.call(module, x)
        after = module(x)
    assert after.equal(expected)
    after.float().sum().backward()
    assert all(p.grad is not None for p in trained(module).values())


def test_updates_as_often_as_asked() -> None:
    module = Tied()
    copy = MomentumCopy({name: torch.zeros_like(p) for name, p in trained(module).items()}, 0.75)
    copy.update(module, {"first.bias": 2})
    torch.testing.assert_close(copy.averages["first.weight"], 0.25 * module.first.weight.detach())
    torch.testing.assert_close(copy.averages["first.bias"], (1 - 0.75**2) * module.first.bias.detach())


class Launches(TorchDispatchMode):
    """Names of the operators that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_all_averages_move_in_one_call() -> None:
    module = Tied()
    copy = MomentumCopy({name: torch.zeros_like(p) for name, p in trained(module).items()}, 0.75)
    with Launches() as launches:
        copy.update(module)
    assert launches.names == ["_foreach_lerp_"]


def test_places_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = Tied(), torch.randn(2, 3)
    copy = MomentumCopy(trained(module), 0.9)
    first = copy.call(module, x)
    monkeypatch.delattr(momentum, "_places")
    assert copy.call(module, x).equal(first)
    for average in copy.averages.values():
        average.zero_()
    assert not copy.call(module, x).equal(first)


def test_averages_are_in_the_state() -> None:
    copy = MomentumCopy(trained(Tied()), 0.9)
    other = MomentumCopy({name: torch.zeros_like(p) for name, p in trained(Tied()).items()}, 0.9)
    other.load_state_dict(copy.state_dict())
    assert len(copy.averages) == 3
    assert all(other.averages[name].equal(average) for name, average in copy.averages.items())


def pairs(first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    index = torch.arange(first, first + count)
    return index[:, None].float().expand(-1, 2), -index[:, None].float().expand(-1, 2), index


def test_queue_replaces_the_oldest_and_wraps_around() -> None:
    queue = FeatureQueue(5, 2)
    assert queue.video_index.tolist() == [-100] * 5
    torch.testing.assert_close(queue.video.norm(dim=1), torch.ones(5))
    for first in (0, 3, 6):
        queue.push(*pairs(first, 3))
    assert queue.video_index.tolist() == [5, 6, 7, 8, 4]
    assert queue.video[:, 0].tolist() == [5, 6, 7, 8, 4]
    assert queue.text[:, 1].tolist() == [-5, -6, -7, -8, -4]
    assert queue.position.item() == 4


def test_queues_start_alike_and_draw_nothing() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert FeatureQueue(3, 2).video.equal(FeatureQueue(3, 2).video)
    assert torch.get_rng_state().equal(before)


def test_queue_must_hold_a_batch() -> None:
    with pytest.raises(UsageError, match="queue_size is 2: it must hold at least one global batch, which is 3"):
        FeatureQueue(2, 2).push(*pairs(0, 3))
