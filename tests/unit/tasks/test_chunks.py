"""Contrastive training on a batch that is embedded in chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from methods.adaptformer import AdaptFormer
from methods.cross_modal_adapter import CrossModalAdapter
from methods.full import Full
from methods.mv_adapter import MVAdapter
from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.method import Method
from petl_bench.runs.cost import SavedActivations
from petl_bench.tasks.chunks import Features, features_in_chunks, features_of
from petl_bench.tasks.pooling import TextConditionedPooling
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch


def adapted(kind: type[Method], backbone: type[Any], **options: Any) -> Method:
    torch.manual_seed(0)
    return kind(backbone=backbone("tiny", None), task=Retrieval(**options)).adapt().train()


def gradients(method: Method, autocast: bool = False) -> dict[str, Tensor]:
    method.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        loss, _ = method.task.loss(method.backbone, make_batch(method.backbone))
    loss.backward()
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def kept_in_chunks(backbone: Any, clips: Any, words: Any, size: int) -> Features:
    """The same chunks without a second pass: every activation is kept."""
    ends = range(len(clips.mask), 0, -size)
    rows = [slice(max(0, end - size), end) for end in ends][::-1]
    parts = [features_of(backbone, clips.select(part), words.select(part)) for part in rows]
    video = [torch.cat(column) for column in zip(*(part.video for part in parts), strict=True)]
    text = [torch.cat(column) for column in zip(*(part.text for part in parts), strict=True)]
    return Features(type(parts[0].video)(*video), type(parts[0].text)(*text))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(
    ("kind", "backbone", "options"),
    [
        (AdaptFormer, CLIP, {}),
        (MVAdapter, CLIP, {}),
        (CrossModalAdapter, CLIP, {"pooling": TextConditionedPooling()}),
        (Full, WholeCLIP, {}),
        (UniAdapter, BLIP, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_second_pass_computes_what_the_first_one_did(
    kind: type[Method],
    backbone: type[Any],
    options: dict[str, Any],
    chunk: int,
    autocast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same dropout (BLIP's, adapters') and precision: gradients as if every chunk had been kept."""
    method = adapted(kind, backbone, chunk=chunk, **options)
    found = gradients(method, autocast)
    monkeypatch.setattr("petl_bench.tasks.retrieval.features_in_chunks", kept_in_chunks)
    expected = gradients(method, autocast)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


def test_dropout_is_drawn_anew_in_each_chunk() -> None:
    """Else the test above would compare nothing random."""
    backbone = BLIP("tiny", None).train()
    batch = make_batch(backbone)
    same = batch.words.select(torch.zeros(4, dtype=torch.long))
    texts = features_in_chunks(backbone, batch.clips, same, 1).text.pooled
    assert len({tuple(text.tolist()) for text in texts}) == 4


def test_each_chunk_but_the_last_is_embedded_twice_and_in_this_order() -> None:
    method = adapted(Full, CLIP, chunk=3)
    counts: list[int] = []
    encode = method.backbone.encode_video

    def counted(clips: Any) -> Any:
        counts.append(len(clips.mask))
        return encode(clips)

    method.backbone.encode_video = counted  # type: ignore[method-assign]
    gradients(method)
    assert counts == [1, 3, 1]
    counts.clear()
    method.task.chunk = 4
    gradients(method)
    assert counts == [4]


@pytest.mark.parametrize("chunk", [1, 2])
def test_activations_of_one_chunk_at_a_time(chunk: int) -> None:
    """What LN2 gives in all blocks, of all passes, as long as it is in memory: a share of the batch's."""
    whole, part = most_held(None), most_held(chunk)
    assert whole > 0
    assert part <= whole * chunk / 4


def most_held(chunk: int | None) -> int:
    """The most bytes of LN2's outputs that are there at once in a step."""
    method = adapted(Full, CLIP, chunk=chunk)  # which keeps them, for the weight of the layer behind
    held: list[tuple[StorageWeakRef, int]] = []
    most = 0

    def note(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal most
        held.append((StorageWeakRef(output.untyped_storage()), output.nbytes))
        most = max(most, sum(size for storage, size in held if not storage.expired()))

    for tower in method.backbone.towers.values():
        for block in tower.blocks:
            block.norms[1].register_forward_hook(note)
    gradients(method)
    return most


def test_saved_bytes_are_those_of_a_chunk() -> None:
    """The last one, which is kept: what the others take when it is their turn. Features and logits come on top."""

    def saved(chunk: int | None) -> int:
        method = adapted(AdaptFormer, CLIP, chunk=chunk)
        meter = SavedActivations(method)
        with meter:
            method.task.loss(method.backbone, make_batch(method.backbone))
        return meter.bytes

    assert saved(2) < 0.52 * saved(None)
    assert saved(1) < 0.27 * saved(None)
