"""LoRA against the released code of its line: DiscoVLA's with all that DiscoVLA adds switched off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from methods.lora import LoRA
from methods.tempme import TempMe
from petl_bench.backbones.base import mean_of_real
from petl_bench.backbones.clip.model import CLIP
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.tasks.retrieval import Retrieval
from tests.golden.helpers import Case, assert_output, golden_files
from tests.golden.official_retrieval import (
    CLIP_OPTIONS,
    assert_similarity,
    assert_text_hidden,
    assert_trained,
    clip_of,
    hidden_states,
    inputs_of,
    lora_slots_of,
    mean_pooled,
    normalised,
)
from tests.golden.official_vit import fill
from tests.inputs import clips_of

#: DiscoVLA's own parts: blocks with its fusion, weights of its losses
SWITCHED_OFF = ("H_V", "H_L", "alpha", "beta")


def lora(clip: CLIP, rank: int) -> Method:
    return LoRA(rank, backbone=clip, task=Retrieval())


def tempme_without_its_switches(clip: CLIP, rank: int) -> Method:
    return TempMe(rank, cross_frame=False, merging=False, backbone=clip, task=Retrieval())


@pytest.mark.parametrize("path", golden_files("lora_clip*"))
@pytest.mark.parametrize("build", [lora, tempme_without_its_switches])
def test_model(path: Path, build: Callable[[CLIP, int], Method], tmp_path: Path) -> None:
    case = Case(path)
    options = case.options(*CLIP_OPTIONS, *SWITCHED_OFF, "lora_adapter_dim")
    assert not any(options[name] for name in SWITCHED_OFF), "DiscoVLA, not LoRA alone"
    clip, found = clip_of(case, tmp_path)
    method = build(clip, options["lora_adapter_dim"]).adapt()
    found |= lora_slots_of(clip)
    fill(found, case.group("param"))

    frames, mask, ids, text_mask = inputs_of(case)
    video, text = clip.encode_video(clips_of(frames, mask)), clip.encode_text(Words(ids, text_mask))
    assert_output(video.frames, case.tensors["out.frame_features"], "frame_features")
    pooled = mean_of_real(normalised(video.frames), mask)
    assert_output(pooled, case.tensors["out.video_features"], "video_features")
    assert_output(text.projected, case.tensors["out.text_features"], "text_features")
    similarity = mean_pooled(clip, text.pooled, video.pooled)
    assert_similarity(case, similarity)

    states = hidden_states(clip.vision.blocks, lambda: clip.encode_video_tokens(clips_of(frames, mask)))
    for k, state in enumerate(states):
        assert_output(state, case.tensors[f"out.visual_hidden_{k}"], f"visual_hidden_{k}")
    assert_text_hidden(clip, case, ids, text_mask)
    # The captions of single frames, which only DiscoVLA's losses read, take the same path.
    captions, words = (case.tensors[f"in.frame_{name}"].flatten(0, 1) for name in ("text_ids", "t_mask"))
    features = clip.encode_text(Words(captions, words.bool())).projected
    assert_output(features, case.tensors["out.caption_features"].flatten(0, 1), "caption_features")
    assert_text_hidden(clip, case, captions, words.bool(), "caption_hidden")

    similarity.loss.backward()
    assert_trained(method, found, case)
