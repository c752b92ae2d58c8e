import copy
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from methods.mv_adapter import OfficialMVAdapter
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import UsageError
from petl_bench.method import Method, _seed_generators
from petl_bench.optimizers import AdamWCosine, OptimizerRecipe
from petl_bench.tasks.retrieval import Retrieval


class Mixed(Method):
    """Adds a linear layer and an attention, and unfreezes one weight and one bias of the backbone."""

    def inject(self, backbone: Backbone) -> None:
        block = backbone.towers["vision"].blocks[0]
        block.attention.out.requires_grad_(True)
        self.added = nn.Linear(2, 2)
        self.again = self.added
        self.joined = nn.MultiheadAttention(2, 1)


def mixed() -> Method:
    return Mixed(backbone=CLIP("tiny", None), task=Retrieval()).adapt()


def flags(method: Method) -> dict[str, tuple[bool, bool]]:
    return {name: (pretrained, bias) for name, _, pretrained, bias in method.trainable_parameters()}


EXPECTED = {
    "backbone.vision.stack.0.self_attention.out.weight": (True, False),
    "backbone.vision.stack.0.self_attention.out.bias": (True, True),
    "added.weight": (False, False),
    "added.bias": (False, True),
    "joined.in_proj_weight": (False, False),
    "joined.in_proj_bias": (False, True),
    "joined.out_proj.weight": (False, False),
    "joined.out_proj.bias": (False, True),
}


def test_trainable_parameters_tell_added_from_unfrozen_and_weights_from_biases() -> None:
    assert flags(mixed()) == EXPECTED


@pytest.mark.parametrize("recipe", [AdamWCosine(warmup=0.0), OfficialMVAdapter(warmup=0.0)])
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(
    recipe: OptimizerRecipe, precision: Literal["16-mixed", "bf16-mixed"]
) -> None:
    """fp16 scales them, and they must be unscaled before."""
    method, plugin = mixed(), MixedPrecision(precision, "cpu")
    method.recipe = recipe
    method._trainer = SimpleNamespace(precision_plugin=plugin, estimated_stepping_batches=3)  # type: ignore[assignment]
    optimizer = method.configure_optimizers()["optimizer"]
    weights = [p.parameter for p in method.trainable_parameters()]
    before = [weight.detach().clone() for weight in weights]
    scale = plugin.scaler or SimpleNamespace(scale=lambda x: x, unscale_=lambda _: None, step=lambda o: o.step())
    scale.scale(torch.cat([weight.flatten() for weight in weights]).sum() * 1000).backward()
    scale.unscale_(optimizer)
    method.clip_gradients = lambda optimizer, value, _: plugin.clip_gradients(optimizer, value)  # type: ignore[method-assign, assignment]
    method.configure_gradient_clipping(optimizer)
    norm = torch.linalg.vector_norm(torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]))
    assert norm == pytest.approx(1, rel=1e-5)
    scale.step(optimizer)
    assert not any(one.equal(two) for one, two in zip(before, weights, strict=True))


def test_a_copied_method_knows_its_own_parameters() -> None:
    method = copy.deepcopy(mixed())
    assert flags(method) == EXPECTED
    own = {id(p) for p in method.backbone.parameters()}
    assert {id(p) for p in method.pretrained_parameters()} == own


def test_pretrained_parameters_are_those_before_the_method() -> None:
    method = mixed()
    plain = sum(p.numel() for p in CLIP("tiny", None).parameters())
    assert sum(p.numel() for p in method.pretrained_parameters()) == plain
    added = (2 * 2 + 2) + (6 * 2 + 6) + (2 * 2 + 2)  # linear, in-projection, out-projection
    assert method.parameter_counts()["total"] == plain + added


class WithoutBase(Method):
    def __init__(self, backbone: Backbone, task: Retrieval, start: float = 1.0) -> None:
        self.start = start

    def inject(self, backbone: Backbone) -> None: ...


class LayerFirst(Method):
    def __init__(self, **kwargs: object) -> None:
        self.added = nn.Linear(2, 2)

    def inject(self, backbone: Backbone) -> None: ...


class WithoutArguments(Method):
    def __init__(self, start: float = 1.0, **kwargs: object) -> None:
        super().__init__()  # pyright: ignore[reportCallIssue]

    def inject(self, backbone: Backbone) -> None: ...


@pytest.mark.parametrize("kind", [WithoutBase, LayerFirst, WithoutArguments])
def test_a_constructor_that_does_not_call_its_base_is_named(kind: type[Method]) -> None:
    with pytest.raises(
        UsageError, match=rf"^{kind.__name__}\.__init__ must begin with super\(\)\.__init__\(\*\*kwargs\)"
    ):
        kind(backbone=CLIP("tiny", None), task=Retrieval())


def test_a_module_of_a_method_that_does_not_call_its_base_is_told() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Linear(2, 2)

    class Adds(Method):
        def inject(self, backbone: Backbone) -> None:
            self.layer = Layer()

    with pytest.raises(UsageError, match=r"^Adds\.inject makes a module whose __init__ does not begin with super"):
        Adds(backbone=CLIP("tiny", None), task=Retrieval()).adapt()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_step_draws_what_it_drew_after_torchs_own_seed(seed: int) -> None:
    torch.manual_seed(seed)
    expected = torch.rand(5), torch.randn(5), torch.randperm(9)
    _seed_generators(torch.device("cpu"), seed)
    for drawn, before in zip((torch.rand(5), torch.randn(5), torch.randperm(9)), expected, strict=True):
        assert drawn.equal(before)


def test_other_accelerators_are_seeded_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    _seed_generators(torch.device("mps"), 3)
    assert seeded == [3]
