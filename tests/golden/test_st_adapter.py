"""ST-Adapter equals the released code: the adapter, a block, a whole vision transformer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from methods.st_adapter import WRAPPERS, BeforeAttention, SpatioTemporalAdapter
from petl_bench.nn.transformer import Block, Context
from tests.golden.helpers import Case, assert_output, golden_files
from tests.golden.official_vit import (
    Slots,
    ViT,
    assert_gradients,
    backward,
    below,
    build_block,
    clip_block_slots,
    load,
    slots,
    tower_of,
)


def adapter_slots(adapter: SpatioTemporalAdapter) -> Slots:
    return slots("fc1", adapter.down) | slots("conv", adapter.conv) | slots("fc2", adapter.up)


def square_grid(patches: int) -> tuple[int, int]:
    side = round(patches**0.5)
    assert side * side == patches
    return side, side


def adapted_block(block: Any, kwargs: dict[str, Any], width: int, grid: tuple[int, int]) -> tuple[Block, Slots]:
    """A CLIP block with adapters where the case has them, and all its slots by official names."""
    found = clip_block_slots(block)
    placed = [name for name in ("pre_attn", "pre_mlp") if kwargs[f"adapter_{name}"]]
    for wrapper in WRAPPERS.get("_".join(placed), ()):
        adapter = SpatioTemporalAdapter(width, kwargs["adapter_width"], tuple(kwargs["adapter_kernel_size"]), grid)
        block = wrapper(block, adapter)
        found |= below(f"adapter_{'pre_attn' if wrapper is BeforeAttention else 'pre_mlp'}", adapter_slots(adapter))
    return block, found


@pytest.mark.parametrize("path", golden_files("st_adapter__k*"))
def test_adapter(path: Path) -> None:
    case = Case(path)
    kwargs = case.json["kwargs"]
    x = case.tensors["in.x"].requires_grad_()
    kernel = tuple(kwargs["kernel_size"])
    adapter = SpatioTemporalAdapter(
        kwargs["in_channels"], kwargs["adapter_channels"], kernel, square_grid(x.shape[1] - 1)
    )
    found = adapter_slots(adapter)
    load(found, case)
    y = adapter(x, Context(steps=case.json["T"]))
    assert_output(y, case.tensors["out.y"], "y")
    backward(case, y=y)
    assert_gradients(found, {"x": x}, case)


@pytest.mark.parametrize("path", golden_files("st_adapter_block__*"))
@pytest.mark.parametrize("masked", [False, True])
def test_block(path: Path, masked: bool) -> None:
    """With a mask of real frames only, and without any."""
    case = Case(path)
    kwargs, x = case.json["kwargs"], case.tensors["in.x"].requires_grad_()
    width, frames = kwargs["d_model"], case.json["T"]
    hidden = len(case.tensors["param.mlp.c_fc.weight"])
    native = build_block(width, kwargs["n_head"], hidden, quick_gelu=True)
    block, found = adapted_block(native, kwargs, width, square_grid(x.shape[1] - 1))
    load(found, case)
    mask = torch.ones(len(x) // frames, frames, dtype=torch.bool) if masked else None
    context = Context(steps=frames, step_mask=mask)
    y = block(x, context)
    assert_output(y, case.tensors["out.y"], "y")
    row = torch.zeros(len(x), dtype=torch.long)
    assert_output(block.forward_row(x, row, context), case.tensors["out.y"][:, :1], "[CLS] alone")
    backward(case, y=y)
    assert_gradients(found, {"x": x}, case)


@pytest.mark.parametrize("path", golden_files("st_adapter_vit*"))
def test_vision_transformer(path: Path) -> None:
    """The unread last adapter before the feed-forward layers has a zero gradient, there and here."""
    case = Case(path)
    kwargs, video = case.json["kwargs"], case.tensors["in.x"].requires_grad_()
    width, patch = kwargs["width"], kwargs["patch_size"]
    side = kwargs["input_resolution"] // patch
    blocks, found = [], Slots()
    for index in range(kwargs["layers"]):
        name = f"transformer.resblocks.{index}"
        hidden = len(case.tensors[f"param.{name}.mlp.c_fc.weight"])
        block = build_block(width, kwargs["heads"], hidden, quick_gelu=True)
        block_slots = clip_block_slots(block)
        if index >= kwargs["layers"] - kwargs["adapter_layers"]:
            block, block_slots = adapted_block(block, kwargs, width, (side, side))
        blocks.append(block)
        found |= below(name, block_slots)
    model = ViT(
        nn.Conv2d(3, width, patch, patch, bias=False),
        side * side + 1,
        nn.LayerNorm(width),
        tower_of(blocks, width, (side, side)),
        nn.LayerNorm(width),
        kwargs["num_classes"],
    )
    found |= {"class_embedding": model.cls, "positional_embedding": model.positions}
    found |= slots("conv1", model.patches) | slots("ln_pre", model.ln_pre)
    found |= slots("ln_post", model.norm) | slots("fc", model.head)
    load(found, case)
    frames = video.transpose(1, 2)  # (B, T, 3, H, W)
    _, logits = model(frames.flatten(0, 1), Context(steps=frames.shape[1]))
    assert_output(logits, case.tensors["out.logits"], "logits")
    backward(case, logits=logits)
    assert_gradients(found, {"x": video}, case)
    for name in case.json["grad_all_zero"]:
        gradient = found[name].grad
        assert gradient is not None
        assert not gradient.any()
