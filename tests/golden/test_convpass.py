"""Convpass equals the released code: the bypass, and blocks with one or two of them."""

from pathlib import Path

import pytest
import torch

from methods.convpass import WRAPPERS, BesideAttention, ConvBypass
from petl_bench.nn.transformer import Block, Context
from tests.golden.helpers import Case, assert_output, golden_files
from tests.golden.official_vit import (
    Slots,
    assert_gradients,
    backward,
    below,
    build_block,
    load,
    slots,
    timm_block_slots,
)


def build_bypass(case: Case, scale: float) -> ConvBypass:
    kwargs, grid = case.json["kwargs"], (case.json["grid"], case.json["grid"])
    init = "xavier" if kwargs["xavier_init"] else "identity"
    return ConvBypass(case.json["width"], kwargs["dim"], scale, init, 0.1, grid).eval()


def bypass_slots(bypass: ConvBypass) -> Slots:
    return slots("adapter_down", bypass.down) | slots("adapter_conv", bypass.conv) | slots("adapter_up", bypass.up)


@pytest.mark.parametrize("path", golden_files("convpass__*"))
def test_bypass(path: Path) -> None:
    case = Case(path)
    bypass, x = build_bypass(case, 1.0), case.tensors["in.x"].requires_grad_()
    found = bypass_slots(bypass)
    load(found, case)
    y = bypass(x)
    assert_output(y, case.tensors["out.y"], "y")
    backward(case, y=y)
    assert_gradients(found, {"x": x}, case)


@pytest.mark.parametrize("path", golden_files("convpass_block__*"))
def test_block(path: Path) -> None:
    case = Case(path)
    kwargs, x = case.json["kwargs"], case.tensors["in.x"].requires_grad_()
    hidden = len(case.tensors["param.mlp.fc1.weight"])
    native = build_block(case.json["width"], kwargs["num_heads"], hidden, eps=kwargs["norm_eps"])
    found = timm_block_slots(native, "mlp.")
    block: Block = native
    for wrapper in WRAPPERS[case.json["method"]]:
        bypass = build_bypass(case, case.json["s"])
        block = wrapper(block, bypass)
        found |= below("adapter_attn" if wrapper is BesideAttention else "adapter_mlp", bypass_slots(bypass))
    load(found, case)
    y = block(x, Context())
    assert_output(y, case.tensors["out.y"], "y")
    row = torch.zeros(len(x), dtype=torch.long)
    assert_output(block.forward_row(x, row, Context()), case.tensors["out.y"][:, :1], "[CLS] alone")
    backward(case, y=y)
    assert_gradients(found, {"x": x}, case)
