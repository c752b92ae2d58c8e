"""AdaptFormer equals the released code: the adapter, a block, a whole vision transformer."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from methods.adaptformer import WRAPPERS
from petl_bench.nn.layers import AdaptMLP
from petl_bench.nn.transformer import Block, Context
from tests.golden.helpers import Case, assert_output, golden_files
from tests.golden.official_vit import (
    Slots,
    ViT,
    assert_gradients,
    backward,
    below,
    build_block,
    load,
    slots,
    timm_block_slots,
    tower_of,
)


def build_adapter(width: int, bottleneck: int, scalar: str, layer_norm: Any) -> tuple[AdaptMLP, Slots]:
    """An adapter and its slots by official names; a learnable scale gets its value from the case."""
    learnable = scalar == "learnable_scalar"
    adapter = AdaptMLP(width, bottleneck, 1.0 if learnable else float(scalar), learnable, layer_norm).eval()
    inner = adapter.bottleneck
    found = slots("down_proj", inner.down) | slots("up_proj", inner.up)
    if isinstance(inner.scale, nn.Parameter):
        found["scale"] = inner.scale
    # The official code has one norm, whose name stays the same when it is applied to the output.
    norm = adapter.norm_in if layer_norm == "in" else adapter.norm_out
    return adapter, found | slots("adapter_layer_norm_before", norm)


def build(native: Any, config: dict[str, Any]) -> tuple[Block, Slots]:
    """A block as the official configuration wants it, and its slots."""
    found = timm_block_slots(native, "")
    if not config["ffn_adapt"]:
        return native, found
    adapter, adapter_slots = build_adapter(
        config["d_model"],
        config["ffn_num"],
        config["ffn_adapter_scalar"],
        config["ffn_adapter_layernorm_option"],
    )
    return WRAPPERS[config["ffn_option"]](native, adapter), found | below("adaptmlp", adapter_slots)


@pytest.mark.parametrize("path", golden_files("adaptformer_adapter__*"))
def test_adapter(path: Path) -> None:
    case = Case(path)
    kwargs, x = case.json["kwargs"], case.tensors["in.x"].requires_grad_()
    adapter, found = build_adapter(
        kwargs["d_model"], kwargs["bottleneck"], kwargs["adapter_scalar"], kwargs["adapter_layernorm_option"]
    )
    load(found, case)
    delta = adapter(x)
    assert_output(delta, case.tensors["out.delta"], "delta")
    assert_output(x + delta, case.tensors["out.res"], "res")
    backward(case, delta=delta, res=x + delta)
    scale = adapter.bottleneck.scale
    if kwargs["adapter_layernorm_option"] == "out" and isinstance(scale, nn.Parameter):
        # A norm after the scale cancels it: both gradients are round-off (golden/README.md section 2).
        assert scale.grad is not None
        assert (scale.grad - case.tensors["grad.scale"]).abs().max() <= 1e-4
        scale.grad = case.tensors["grad.scale"]
    assert_gradients(found, {"x": x}, case)


@pytest.mark.parametrize("path", golden_files("adaptformer_block__*"))
def test_block(path: Path) -> None:
    case = Case(path)
    kwargs, x = case.json["kwargs"], case.tensors["in.x"].requires_grad_()
    hidden = len(case.tensors["param.fc1.weight"])
    native = build_block(kwargs["dim"], kwargs["num_heads"], hidden, eps=kwargs["norm_eps"])
    block, found = build(native, kwargs["config"])
    load(found, case)
    y = block(x, Context())
    assert_output(y, case.tensors["out.y"], "y")
    backward(case, y=y)
    assert_gradients(found, {"x": x}, case)


@pytest.mark.parametrize("path", golden_files("adaptformer_vit*"))
def test_vision_transformer(path: Path) -> None:
    case = Case(path)
    kwargs, x = case.json["kwargs"], case.tensors["in.x"].requires_grad_()
    width, patch, eps = kwargs["embed_dim"], kwargs["patch_size"], kwargs["norm_eps"]
    side = kwargs["img_size"] // patch
    blocks, found = [], Slots()
    for index in range(kwargs["depth"]):
        native = build_block(width, kwargs["num_heads"], int(width * kwargs["mlp_ratio"]), eps=eps)
        block, block_slots = build(native, kwargs["tuning_config"])
        blocks.append(block)
        found |= below(f"blocks.{index}", block_slots)
    model = ViT(
        nn.Conv2d(3, width, patch, patch),
        side * side + 1,
        nn.Identity(),
        tower_of(blocks, width, (side, side)),
        nn.LayerNorm(width, eps),
        kwargs["num_classes"],
    )
    found |= {"cls_token": model.cls, "pos_embed": model.positions}
    found |= slots("patch_embed.proj", model.patches) | slots("norm", model.norm) | slots("head", model.head)
    load(found, case)
    features, logits = model(x, Context())
    assert_output(features, case.tensors["out.features"], "features")
    assert_output(logits, case.tensors["out.logits"], "logits")
    backward(case, features=features, logits=logits)
    assert_gradients(found, {"x": x}, case)
