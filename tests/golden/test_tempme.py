"""TempMe against its released code: merging, attention, blocks, token schedules, whole small models.

Two deliberate departures (see `methods.tempme.TempMe`) are undone here around our modules: the vectors then agree, and
without that they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.tempme import JoiningBlock, LastBlock, MergingBlock, Plan, TempMe, Tokens, merge
from petl_bench.backbones.base import mean_of_real, mean_over_frames
from petl_bench.backbones.clip.model import CLIP, CLIPBlock
from petl_bench.inputs import Words
from petl_bench.nn.layers import LoRALinear
from petl_bench.nn.transformer import Context
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import adapt_on_meta, meta_clip, token_schedule
from tests.golden.helpers import Case, assert_output, golden_files
from tests.golden.official_retrieval import (
    CLIP_OPTIONS,
    assert_gradients,
    assert_similarity,
    assert_text_hidden,
    assert_trained,
    clip_of,
    hidden_states,
    inputs_of,
    lora_slots,
    lora_slots_of,
    mean_pooled,
    normalised,
)
from tests.golden.official_vit import Slots, backward, below, build_block, clip_block_slots, fill
from tests.inputs import clips_of

#: what the released code does and ours does not
PADDED_FRAMES_ARE_READ = "padded frames are read, and merged into real ones"
IDLE_POSITIONS_ARE_LEFT_OUT = "clips get no position where nothing is merged before the attention"

OPTIONS = (
    *("lora_dim", "tome_r", "tome_propattn", "frame_pos"),
    *("merge_layer", "merge_frame_num", "merge_token_proportion"),
)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("tempme_merge__*"))
def test_merge(path: Path) -> None:
    case = Case(path)
    options = case.options("r", "cls_num", "size_given")
    x, metric = (case.tensors[f"in.{name}"].requires_grad_() for name in ("x", "metric"))
    size = case.tensors["in.size"] if options["size_given"] else torch.ones(x.shape[:2])
    merged = merge(Tokens(x, size), metric, options["cls_num"], options["r"])
    assert_output(merged.x, case.tensors["out.y"], "y")
    assert torch.equal(merged.size, case.tensors["out.size"])
    backward(case, y=merged.x)
    assert_gradients({"in.x": x, "in.metric": metric}, case.group("grad"))


class BareAttention(CLIPBlock):
    """Gives the attention branch and nothing else."""

    def attention_norm(self, x: Tensor) -> Tensor:
        return x

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return branch

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return torch.zeros_like(x)


def with_lora(block: CLIPBlock, rank: int) -> Slots:
    """Puts LoRA into a native block; all its parameters by official names."""
    found, attention = clip_block_slots(block), block.attention
    assert isinstance(attention.qkv, nn.Linear)
    attention.qkv = LoRALinear(attention.qkv, rank)
    return found | below("attn", lora_slots(attention.qkv))


@pytest.mark.parametrize("path", golden_files("tempme_attention__*"))
def test_attention(path: Path) -> None:
    case = Case(path)
    options = case.options("embed_dim", "num_heads", "lora_dim", "size_given")
    width, sized = options["embed_dim"], options["size_given"]
    native = build_block(width, options["num_heads"], width, quick_gelu=True)
    native.__class__ = BareAttention
    everything = with_lora(native, options["lora_dim"])
    found = {name.removeprefix("attn."): slot for name, slot in everything.items() if name.startswith("attn.")}
    fill(found, case.group("param"))
    x = case.tensors["in.x"].requires_grad_()
    size = case.tensors["in.size"] if sized else torch.ones(x.shape[:2])
    block = MergingBlock(native, Plan(1, 1, 1, before=0, after=0, sized=sized))
    y = block(Tokens(x, size), Context(frame_mask=torch.ones(len(x), 1).bool())).x
    keys = block.attention.project(x)[1].mean(1)  # over the heads
    assert_output(y, case.tensors["out.y"], "y")
    assert_output(keys, case.tensors["out.key_mean"], "key_mean")
    backward(case, y=y, key_mean=keys)
    assert_gradients(found | {"in.x": x}, case.group("grad"))


def merges_before(block: JoiningBlock, tokens: Tokens) -> bool:
    """Whether the released code merges anything when it joins these clips."""
    plan = block.plan
    length = tokens.x.shape[1] * plan.join
    wanted = plan.before if isinstance(plan.before, int) else int(plan.before * length)
    return min(wanted, (length - plan.cls) // 2) > 0


def leave_out_idle_positions(block: JoiningBlock) -> None:
    ours = block.enter

    def released(tokens: Tokens, videos: int) -> Tokens:
        if merges_before(block, tokens):
            return ours(tokens, videos)
        positions, block.positions = block.positions, None
        try:
            return ours(tokens, videos)
        finally:
            block.positions = positions

    block.enter = released  # type: ignore[method-assign]


def check_block(case: Case, departures: set[str]) -> None:
    options = case.options(
        *("d_model", "n_head", "lora_dim", "videos", "clips", "tokens", "cls_num"),
        *("M_frame_num", "M_token_num", "frame_pos", "size_given"),
    )
    width, join, cls = options["d_model"], options["M_frame_num"], options["cls_num"] * options["M_frame_num"]
    *before, after = options["M_token_num"]
    plan = Plan(options["clips"], join, cls, sum(before), after, sized=options["size_given"] or join > 1)
    native = build_block(width, options["n_head"], 4 * width, quick_gelu=True)
    found = with_lora(native, options["lora_dim"])
    block = MergingBlock(native, plan)
    if join > 1:
        block = JoiningBlock(native, plan, width, positions=bool(options["frame_pos"]))
        if block.positions is not None:
            found |= {"TVPt_Video_Positional_embedding": block.positions}
        if IDLE_POSITIONS_ARE_LEFT_OUT in departures:
            leave_out_idle_positions(block)
    fill(found, case.group("param"))
    x = case.tensors["in.x"].requires_grad_()
    size = case.tensors["in.size"] if options["size_given"] else torch.ones(x.shape[:2])
    mask = torch.ones(options["videos"], options["clips"]).bool()
    y = block(Tokens(x, size), Context(frames=options["clips"], frame_mask=mask))
    assert_output(y.x, case.tensors["out.y"], "y")
    assert_output(y.size, case.tensors["out.size"], "size")
    assert (plan.cls, y.x.shape[1], len(y.x) // options["videos"]) == tuple(
        case.json["after"][name] for name in ("cls_num", "token_num", "frame_num")
    )
    backward(case, y=y.x)
    assert_gradients(found | {"in.x": x}, case.group("grad"))


@pytest.mark.parametrize("path", golden_files("tempme_block__*"))
def test_block(path: Path) -> None:
    case = Case(path)
    idle = case.json["grad_none"]
    assert set(idle) <= {"TVPt_Video_Positional_embedding"}
    agree_only_with({IDLE_POSITIONS_ARE_LEFT_OUT} if idle else set(), lambda departures: check_block(case, departures))


def agree_only_with(departures: set[str], check: Callable[[set[str]], None]) -> None:
    """A case agrees with all of the departures undone, and with one of them left as it is it does not."""
    check(departures)
    for departure in departures:
        with pytest.raises(AssertionError):
            check(departures - {departure})


# --- whole models -----------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split("-")]


def method_options(options: dict[str, Any]) -> dict[str, Any]:
    """Our arguments for the released command line's."""
    assert options.get("tome_propattn", True), "attention without log(size) is not what the code runs, and not here"
    before, after = numbers(options["merge_token_proportion"])
    joins = numbers(options["merge_frame_num"])
    assert math.prod(joins) == options["max_frames"]
    return {
        "rank": options.get("lora_dim", 8),
        "merge_layers": numbers(options["merge_layer"]),
        "join_clips": joins,
        "tokens_per_layer": options["tome_r"],
        "cross_clip_share": before / 100,
        "in_clip_share": after / 100,
        "clip_positions": bool(options.get("frame_pos", 1)),
    }


def joining(clip: CLIP) -> list[tuple[int, JoiningBlock]]:
    inner = [block.inner if isinstance(block, LastBlock) else block for block in clip.vision.blocks]
    return [(index, block) for index, block in enumerate(inner) if isinstance(block, JoiningBlock)]


def position_slots(clip: CLIP) -> Slots:
    name = "clip.visual.transformer.resblocks.{}.TVPt_Video_Positional_embedding"
    return {name.format(index): b.positions for index, b in joining(clip) if b.positions is not None}


def check_model(case: Case, folder: Path, departures: set[str], **switches: Any) -> None:
    options = case.options(*CLIP_OPTIONS, *OPTIONS)
    clip, found = clip_of(case, folder)
    method = TempMe(backbone=clip, task=Retrieval(), **method_options(options) | switches).adapt()
    found |= lora_slots_of(clip) | position_slots(clip)
    fill(found, case.group("param"))
    if IDLE_POSITIONS_ARE_LEFT_OUT in departures:
        for _, block in joining(clip):
            leave_out_idle_positions(block)
    assert [list(step) for step in token_schedule(method, options["max_frames"])] == case.json["token_schedule"]

    frames, mask, ids, text_mask = inputs_of(case)
    read = torch.ones_like(mask) if PADDED_FRAMES_ARE_READ in departures else mask
    video, text = clip.encode_video(clips_of(frames, read)).frames, clip.encode_text(Words(ids, text_mask))
    assert_output(normalised(video), case.tensors["out.frame_features"], "frame_features")
    assert_output(mean_of_real(normalised(video), mask), case.tensors["out.video_features"], "video_features")
    assert_output(text.projected, case.tensors["out.text_features"], "text_features")
    similarity = mean_pooled(clip, text.pooled, mean_over_frames(video, mask))
    assert_similarity(case, similarity)

    blocks = [block.inner if isinstance(block, LastBlock) else block for block in clip.vision.blocks]
    first, *states = hidden_states(blocks, lambda: clip.encode_video_tokens(clips_of(frames, read)))
    assert_output(first, case.tensors["out.visual_hidden_0"], "visual_hidden_0")
    for k, state in enumerate(states, 1):
        assert_output(state.x, case.tensors[f"out.visual_hidden_{k}"], f"visual_hidden_{k}")
        assert torch.equal(state.size, case.tensors[f"out.visual_size_{k}"]), f"visual_size_{k}"
    assert_text_hidden(clip, case, ids, text_mask)

    similarity.loss.backward()
    assert_trained(method, found, case)


@pytest.mark.parametrize("path", golden_files("tempme_clip__*"))
def test_model(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    departures = set() if inputs_of(case).frame_mask.all() else {PADDED_FRAMES_ARE_READ}
    if case.json["grad_none"]:
        departures.add(IDLE_POSITIONS_ARE_LEFT_OUT)
    agree_only_with(departures, lambda departures: check_model(case, tmp_path, departures))
    if not any([case.json["kwargs"]["tome_r"], *numbers(case.json["kwargs"]["merge_token_proportion"])]):
        check_model(case, tmp_path, departures, merging=False)


@pytest.mark.parametrize("path", golden_files("tempme_token_schedules"))
def test_token_schedules(path: Path) -> None:
    """The last entry's tokens include one [CLS] per frame."""
    known = {"architecture", "schedule", "max_frames", *OPTIONS}
    for row in Case(path).json["schedules"]:
        assert row.keys() <= known
        backbone = meta_clip(row["architecture"].replace("/", "-") + "-quickgelu")
        method = adapt_on_meta(TempMe(backbone=backbone, task=Retrieval(), **method_options(row)))
        assert [list(step) for step in token_schedule(method, row["max_frames"])] == row["schedule"], row
