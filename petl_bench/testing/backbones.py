"""What every backbone must do: `check_backbone`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.cli.tiny_parts import classes_of
from petl_bench.data.batch import Batch
from petl_bench.errors import UsageError
from petl_bench.inputs import InputSpec
from petl_bench.nn.transformer import Tower, WrappedBlock
from petl_bench.tasks.base import Task
from petl_bench.testing.methods import check_gradients, check_memory_savers
from petl_bench.testing.requirements import class_of, require, told_of
from petl_bench.testing.samples import features_of, make_batch, with_other_padding
from petl_bench.testing.tasks import Everything


def check_backbone(backbone: type[Backbone] | str) -> None:
    """Checks, on its `tiny` variant, that a backbone keeps the promises that methods and tasks rest on.

    - `tiny` follows from its seed, also in `weights`, by which an adapter tells what it belongs to
    - it has a name, an `InputSpec` that makes tokens of captions, and towers, the first of which reads video
    - features have the shapes that are documented, are finite, and do not depend on padded frames or on other clips
    - tokens have theirs where `has_tokens` says that there are any, with the same features; otherwise they are refused
    - blocks can be wrapped without changing the features, and tell their linear layers and norms
    - projections and embeddings are parameters of the backbone, and do not overlap
    - it can do at least one task; when all of it is trained, every parameter that the loss reads gets a gradient,
      gradient checkpointing gives the same ones, and bf16 autocast finite ones

    Args:
        backbone: the class, its path, or its short name.

    Raises:
        AssertionError: saying in one sentence what does not hold.
    """
    kind = class_of("backbones", backbone)
    with told_of(kind.__name__):
        _check_identity(kind)
        tiny = kind.tiny().eval()
        _check_parts(tiny)
        batch = make_batch(tiny)
        if tiny.joint is not None:
            _check_features(tiny, batch)
        _check_tokens(tiny, batch)
        if tiny.joint is not None:
            _check_blocks(tiny, batch)
        tasks = [task for task in classes_of("tasks").values() if _can_do(tiny, task)]
        require(tasks, "it has the capabilities of no task there is: give it joint, fusion, matching or answers")
    for task in tasks:
        with told_of(f"{kind.__name__} for {task.name}"):
            _check_training(kind, task)


def _check_identity(kind: type[Backbone]) -> None:
    one, same, other = kind.tiny(), kind.tiny(), kind.tiny(init_seed=1)
    pairs = list(zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    require(all(mine.equal(theirs) for mine, theirs in pairs), "tiny() gives other weights each time")
    names = {"source", "sha256"}
    require(names <= one.weights.keys(), f"weights says {sorted(one.weights)}: source and sha256 are needed")
    sha256 = one.weights["sha256"]
    require(
        re.fullmatch("[0-9a-f]{64}", sha256 or ""), f"weights['sha256'] is {sha256!r}: give `parameters_sha256(self)`"
    )
    require(one.weights["sha256"] == same.weights["sha256"], "weights['sha256'] differs for the same weights")
    require(one.weights["sha256"] != other.weights["sha256"], "weights['sha256'] is the same for other weights")


def _check_parts(tiny: Backbone) -> None:
    require(isinstance(tiny.name, str) and tiny.name, "it has no name")
    require(isinstance(tiny.spec, InputSpec), "spec is no InputSpec")
    towers = tiny.towers
    require(towers and all(isinstance(tower, Tower) for tower in towers.values()), "towers holds no Tower")
    require("vision" in next(iter(towers.values())).reads, "the first of its towers does not read vision")
    projections, embeddings = _parameters(tiny, "projections"), _parameters(tiny, "embeddings")
    own = {id(parameter) for parameter in tiny.parameters()}
    require(projections | embeddings <= own, "projections or embeddings give parameters that are not the backbone's")
    require(not projections & embeddings, "a parameter is among projections and embeddings")


def _parameters(tiny: Backbone, what: str) -> set[int]:
    try:
        found: list[nn.Parameter] = getattr(tiny, what)()
    except UsageError:  # it has none
        return set()
    return {id(parameter) for parameter in found}


def _check_features(tiny: Backbone, batch: Batch) -> None:
    clips, texts = len(batch.video_index), len(batch.text_index)
    with torch.no_grad():
        video, text = tiny.encode_video(batch.clips), tiny.encode_text(batch.words)
    _require_shape(video.pooled, (clips, tiny.embed_dim), "encode_video(...).pooled")
    _require_shape(text.pooled, (texts, tiny.embed_dim), "encode_text(...).pooled")
    _require_shape(text.projected, (texts, tiny.embed_dim), "encode_text(...).projected")
    require((video.frames is not None) == tiny.has_frames, f"has_frames is {tiny.has_frames}, and frames say otherwise")
    if video.frames is not None:
        _require_shape(video.frames, (clips, batch.clips.mask.shape[1], tiny.embed_dim), "encode_video(...).frames")
    other = features_of(tiny, with_other_padding(batch))[0]
    require(torch.allclose(other, video.pooled, atol=1e-6), "what is in padded frames changes the features of a clip")
    first = torch.tensor([0])
    alone = batch._replace(clips=batch.clips.select(first), words=batch.words.select(first))
    for mine, together in zip(features_of(tiny, alone), (video.pooled, text.pooled), strict=True):
        require(torch.allclose(mine, together[:1], atol=1e-5), "features depend on the other samples of a batch")


def _check_tokens(tiny: Backbone, batch: Batch) -> None:
    if not tiny.has_tokens:
        require(_refuses_tokens(tiny, batch), "has_tokens is False, but encode_video_tokens gives some")
        return
    with torch.no_grad():
        video, text = tiny.encode_video_tokens(batch.clips), tiny.encode_text_tokens(batch.words)
    memory = video.memory
    require(memory.tokens.dim() == 3, f"the memory has the shape {tuple(memory.tokens.shape)}, and not (B, T * L, D)")
    require(
        text.tokens.shape[:2] == batch.words.ids.shape, f"text tokens are {tuple(text.tokens.shape)}, not (M, N, D)"
    )
    if tiny.joint is not None:
        plain = features_of(tiny, batch)
        found = (video.features.pooled, text.features.pooled)
        same = all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(found, plain, strict=True))
        require(same, "encode_video_tokens or encode_text_tokens give other features than without tokens")


def _refuses_tokens(tiny: Backbone, batch: Batch) -> bool:
    try:
        tiny.encode_video_tokens(batch.clips)
    except UsageError:
        return True
    return False


def _check_blocks(tiny: Backbone, batch: Batch) -> None:
    plain = features_of(tiny, batch)
    try:
        towers = [(name, tower) for name, tower in tiny.towers.items() if tower.blocks]
    except UsageError:  # it is used as a whole
        return
    for name, tower in towers:
        for index, block in enumerate(tower.blocks):
            require(block.norms, f"block {index} of the {name} tower tells no norms")
            require(block.linears, f"block {index} of the {name} tower tells no linear layers")
            tower.replace(index, WrappedBlock(block))
    wrapped = features_of(tiny, batch)
    same = all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(wrapped, plain, strict=True))
    require(same, "wrapping blocks in others that do the same changes the features")


def _can_do(tiny: Backbone, task: type[Task]) -> bool:
    return not task.tiny().lacking(tiny)


def _check_training(kind: type[Backbone], task: type[Task]) -> None:
    def build() -> Everything:
        torch.manual_seed(0)
        method = Everything(kind.tiny(), task.tiny())
        method.adapt()
        return method

    check_gradients(build)
    check_memory_savers(build)


def _require_shape(found: Tensor, wanted: Sequence[int], what: str) -> None:
    require(tuple(found.shape) == tuple(wanted), f"{what} has the shape {tuple(found.shape)}, and not {tuple(wanted)}")
    require(found.isfinite().all(), f"{what} is not finite")
