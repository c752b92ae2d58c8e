"""Cross-Modal Adapter against its released code: the adapter, and whole small models with each of its similarities.

Two of those similarities are not ours (see `methods.cross_modal_adapter.CrossModalAdapter`): they are made here from
our features, and the vectors agree with that and not with what our task makes of the same features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from methods.cross_modal_adapter import AdaptedBlock, CrossModalAdapter, PartlySharedAdapter
from petl_bench.backbones.base import mean_of_real, mean_over_frames
from petl_bench.backbones.clip.model import CLIP
from petl_bench.inputs import Words
from petl_bench.metrics.similarity import text_conditioned_cosine
from petl_bench.tasks.losses import text_conditioned_contrastive_loss
from petl_bench.tasks.retrieval import Retrieval
from tests.golden.helpers import Case, assert_output, golden_files
from tests.golden.official_retrieval import (
    CLIP_OPTIONS,
    Similarity,
    assert_gradients,
    assert_similarity,
    assert_text_hidden,
    clip_of,
    hidden_states,
    inputs_of,
    mean_pooled,
    normalised,
)
from tests.golden.official_vit import Slots, backward, fill, slots
from tests.inputs import clips_of

OPTIONS = ("adapter_reduction_dims", "adapter_share_dim", "adapter_non_linearity")
SCORES = ("q_score", "q_score_temp", "v_emb_norm", "t_emb_norm", "v_agg_norm")


def adapter_slots(adapter: PartlySharedAdapter, down: str, unique: str, shared: str) -> Slots:
    own = {} if adapter.unique is None else slots(unique, adapter.unique)
    return slots(down, adapter.down) | own | slots(shared, adapter.shared)


def without_empty(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Up-projections of no channel, which some cases store, are not there in ours."""
    return {name: tensor for name, tensor in tensors.items() if tensor.numel()}


@pytest.mark.parametrize("path", golden_files("cma_adapter__*"))
def test_adapter(path: Path) -> None:
    case = Case(path)
    options = case.options("width", "reduction_dims", "share_dim", "non_linearity")
    assert options["non_linearity"] == "quick_gelu", "the only one that the released code takes"
    rank, width = options["reduction_dims"], options["width"]
    adapter = PartlySharedAdapter(width, rank, nn.Linear(rank, options["share_dim"]))
    found = adapter_slots(adapter, "down", "up_unique", "up_share")
    fill(found, without_empty(case.group("param")))
    x = case.tensors["in.x"].requires_grad_()
    y = adapter(x)
    assert_output(y, case.tensors["out.y"], "y")
    backward(case, y=y)
    assert_gradients(found | {"in.x": x}, without_empty(case.group("grad")))


def unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official adapters are slices of one tensor per tower: 2i after the attention of block i, 2i + 1 after its MLP."""
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stacked = "_adapter_" in name
        parts |= {f"{name}.{k}": part for k, part in enumerate(tensor)} if stacked else {name: tensor}
    return without_empty(parts)


def method_slots(clip: CLIP) -> Slots:
    found: Slots = {}
    for kind, prefix in (("vision", "visual"), ("text", "text")):
        for index, block in enumerate(clip.towers[kind].blocks):
            assert isinstance(block, AdaptedBlock)
            for k, adapter in enumerate((block.attention_adapter, block.mlp_adapter), 2 * index):
                own = adapter_slots(adapter, "down", "up_unique", "up_share")
                for name, slot in own.items():
                    tower = "vt" if name.startswith("up_share") else prefix
                    found[f"clip.{tower}_adapter_{name.replace('.', '_')}.{k}"] = slot
    return found


def released(clip: CLIP, case: Case, text: Tensor, frames: Tensor, mask: Tensor) -> Similarity:
    """The similarity that the options name, of features before normalisation: texts (M, E), frames (V, T, E)."""
    options = case.json["kwargs"]
    text = normalised(text) if options["t_emb_norm"] else text
    frames = normalised(frames) if options["v_emb_norm"] else frames
    if not options["q_score"]:
        return mean_pooled(clip, normalised(text), normalised(mean_of_real(frames, mask)))
    return text_conditioned(clip, text, frames, mask, options["q_score_temp"])


def ours(clip: CLIP, case: Case, text: Tensor, frames: Tensor, mask: Tensor) -> Similarity:
    """What the task makes of the same features: normalised frames in the mean, raw ones in scores."""
    options = case.json["kwargs"]
    if not options["q_score"]:
        return mean_pooled(clip, normalised(text), mean_over_frames(frames, mask))
    return text_conditioned(clip, text, frames, mask, options["q_score_temp"])


def text_conditioned(clip: CLIP, text: Tensor, frames: Tensor, mask: Tensor, temperature: float) -> Similarity:
    scale = clip.logit_scale.exp()
    return Similarity(
        scale * text_conditioned_cosine(text, frames, mask, temperature),
        text_conditioned_contrastive_loss(text, frames, mask, temperature, scale),
    )


def departs(options: Mapping[str, Any]) -> bool:
    """Whether the options name a similarity that is not ours."""
    assert not options["v_agg_norm"], "frames normalised between score and mean are not here"
    if options["q_score"]:
        return bool(options["v_emb_norm"] or options["t_emb_norm"])
    return not options["v_emb_norm"]


@pytest.mark.parametrize("path", golden_files("cma_clip__*"))
def test_model(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    options = case.options(*CLIP_OPTIONS, *OPTIONS, *SCORES)
    assert options["adapter_non_linearity"] == "quick_gelu", "the only one that the released code takes"
    clip, found = clip_of(case, tmp_path)
    method = CrossModalAdapter(
        options["adapter_reduction_dims"], options["adapter_share_dim"], backbone=clip, task=Retrieval()
    ).adapt()
    added = method_slots(clip)
    fill(found | added, unstacked(case.group("param")))

    frames, mask, ids, text_mask = inputs_of(case)
    video, text = clip.encode_video(clips_of(frames, mask)).frames, clip.encode_text(Words(ids, text_mask)).projected
    assert_output(video, case.tensors["out.frame_features"], "frame_features")
    assert_output(text, case.tensors["out.text_features"], "text_features")
    similarity = released(clip, case, text, video, mask)
    assert_similarity(case, similarity)
    if departs(options):
        with pytest.raises(AssertionError):
            assert_similarity(case, ours(clip, case, text, video, mask))
    else:
        assert_similarity(case, ours(clip, case, text, video, mask))

    states = hidden_states(clip.vision.blocks, lambda: clip.encode_video_tokens(clips_of(frames, mask)))
    for k, state in enumerate(states):
        assert_output(state, case.tensors[f"out.visual_hidden_{k}"], f"visual_hidden_{k}")
    assert_text_hidden(clip, case, ids, text_mask)

    similarity.loss.backward()
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    assert trained == {id(slot) for slot in added.values()}
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == case.json["trainable_count"]
    held = without_empty(case.group("param"))
    official = {name for name in case.json["official_trainable"] if name in held}
    assert {name.rpartition(".")[0] for name in added} == official
    assert not official & {*case.json["grad_none"], *case.json["grad_all_zero"]}
    assert_gradients(added, unstacked(case.group("grad")))
