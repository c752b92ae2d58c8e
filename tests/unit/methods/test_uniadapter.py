"""UniAdapter: counts, sharing, start, fusion, frame attention; more in the contract battery and golden tests."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.uniadapter import (
    AdaptedBlock,
    CrossModalUp,
    FusionBlock,
    ModalityAdapter,
    SharedDown,
    UniAdapter,
    key_factors,
)
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch, Question
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips
from petl_bench.nn.transformer import Memory
from petl_bench.storage.adapters import Adapter, read_adapter, write_adapter
from petl_bench.tasks.base import present
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch
from tests.backbones import BLIPS, Purpose
from tests.inputs import with_frames
from tests.unit.methods.trials import trainable

HEADS = 395_266  # both projections and the matching head
KEY_VALUE = 198_274  # one pair
SMALL: dict[str, Any] = {"bottleneck_dim": 8}


class Both(Retrieval):
    """Contrastive loss plus a matching loss, so that everything is read."""

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return []

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        contrastive, logs = super().loss(backbone, batch)
        return contrastive + F.cross_entropy(match(backbone, batch), torch.arange(len(batch.clips.frames)) % 2), logs


def questions(method: UniAdapter) -> Batch:
    """A batch that any task can train on."""
    asked = tuple(Question(place, "what", (answer,)) for place, answer in enumerate(("red", "a red circle", "up", "")))
    return make_batch(method.backbone, frames=3)._replace(questions=asked)


def match(backbone: Backbone, batch: Batch) -> Tensor:
    """Logits of each caption with its clip."""
    video, memory = backbone.encode_video_tokens(batch.clips)
    text = backbone.encode_text(batch.words)
    read = present(backbone.fusion).weigh_frames(memory, text.pooled, video.by_frame(), batch.clips.mask)
    return present(backbone.matching).match(batch.words, read)


def on_tiny(purpose: Purpose = "retrieval", dropout: float = 0.0, **options: Any) -> UniAdapter:
    torch.manual_seed(0)
    task = Both() if purpose == "retrieval" else AnswerGeneration()
    method = UniAdapter(backbone=BLIPS[purpose]("tiny", None, dropout=dropout), task=task, **SMALL | options)
    method.adapt()
    return method.eval()


def shaken(method: UniAdapter) -> UniAdapter:
    """With every trainable tensor away from its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(method).values():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def gradients(method: UniAdapter, batch: Batch) -> dict[str, Tensor]:
    method.zero_grad()
    method.task.loss(method.backbone, batch)[0].backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


# --- parameter counts, as the released modules have them ---------------------------------------------------------

COUNTS = {
    "r128": ("retrieval", {"bottleneck_dim": 128}, 4_784_640 + HEADS),
    "r512": ("retrieval", {"bottleneck_dim": 512}, 18_945_024 + HEADS),
    "r64": ("retrieval", {"bottleneck_dim": 64}, 2_424_576 + HEADS),
    "r256": ("retrieval", {"bottleneck_dim": 256}, 9_504_768 + HEADS),
    "r128-released": ("retrieval", {"bottleneck_dim": 128, "freeze_cross_norm": True}, 5_161_474),
    "r512-released": ("retrieval", {"bottleneck_dim": 512, "freeze_cross_norm": True}, 19_321_858),
    "r128-kv": ("retrieval", {"bottleneck_dim": 128, "freeze_cross_norm": True, "kv_lora_dim": 64}, 5_359_748),
    "r512-kv": ("retrieval", {"bottleneck_dim": 512, "freeze_cross_norm": True, "kv_lora_dim": 64}, 19_520_132),
    "r128-qa": ("qa", {"bottleneck_dim": 128, "freeze_cross_norm": True}, 4_766_208),
    "r512-qa": ("qa", {"bottleneck_dim": 512, "freeze_cross_norm": True}, 18_926_592),
    # The released script counts 9,928,964: a second set of adapters for the decoder, which it never calls.
    "r128-qa-kv": (
        "qa",
        {"bottleneck_dim": 128, "freeze_cross_norm": True, "kv_lora_dim": 64},
        9_928_964 - 4_766_208,
    ),
}


@pytest.mark.parametrize(("purpose", "options", "expected"), COUNTS.values(), ids=COUNTS.keys())
def test_counts(purpose: Purpose, options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        task = Both() if purpose == "retrieval" else AnswerGeneration()
        method = UniAdapter(backbone=BLIPS[purpose]("base", None), task=task, **options)
        before = sum(p.numel() for p in method.backbone.parameters())
        counts = method.adapt().parameter_counts()
    assert counts["trainable"] == expected
    frozen = 18_432 if options.get("freeze_cross_norm") else 0
    heads = HEADS if purpose == "retrieval" else 0
    assert counts["total"] == before + expected + frozen - heads


def test_two_encoders_train_nothing_of_the_fusion() -> None:
    with torch.device("meta"):
        method = UniAdapter(backbone=BLIP("base", None), task=Retrieval(), kv_lora_dim=64).adapt()
    assert method.parameter_counts()["trainable"] == 4_784_640 - 1_188_864 - 18_432 + HEADS - 1_538


def test_what_only_the_fusion_reads_is_in_no_encoder() -> None:
    """The decoder has the encoders' adapters: they are not the fusion's alone."""
    backbone = on_tiny("qa", kv_lora_dim=4).backbone
    fusion = {id(parameter) for parameter in present(backbone.fusion).fusion_parameters()}
    for vision, text in zip(*(backbone.towers[kind].blocks for kind in ("vision", "text")), strict=True):
        assert isinstance(vision, AdaptedBlock)
        assert isinstance(text, FusionBlock)
        assert not fusion & {id(p) for module in (vision, text.adapter) for p in module.parameters()}
        assert fusion > {id(p) for p in text.cross_modal.parameters()}


# --- sharing ------------------------------------------------------------------------------------------------------


def test_towers_share_a_layers_adapters() -> None:
    method = on_tiny("qa")
    towers = method.backbone.towers
    layers = zip(towers["vision"].blocks, towers["text"].blocks, towers["decoder"].blocks, strict=True)
    seen = set()
    for vision, text, decoder in layers:
        assert isinstance(vision, AdaptedBlock)
        assert isinstance(text, FusionBlock)
        assert isinstance(decoder, FusionBlock)
        assert vision.adapter.shared is text.adapter.shared
        assert vision.adapter.up is not text.adapter.up
        assert (text.adapter, text.cross_modal) == (decoder.adapter, decoder.cross_modal)
        seen.add(id(text.adapter.shared))
    assert len(seen) == len(towers["text"].blocks)


@pytest.mark.parametrize("purpose", ["retrieval", "qa"])
def test_shared_tensors_are_trained_and_saved_once(purpose: Purpose, tmp_path: Path) -> None:
    method = shaken(on_tiny(purpose, kv_lora_dim=4))
    given = [id(p.parameter) for p in method.trainable_parameters()]
    assert len(given) == len(set(given))
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, Adapter(method.trained_state(), method.identity()))
    adapter = read_adapter(path)
    assert sum(tensor.numel() for tensor in adapter.tensors.values()) == method.parameter_counts()["trainable"]
    fresh, batch = on_tiny(purpose, kv_lora_dim=4), questions(method)
    fresh.load_trained_state(adapter, str(path))
    assert fresh.task.loss(fresh.backbone, batch)[0].equal(method.task.loss(method.backbone, batch)[0])


# --- start --------------------------------------------------------------------------------------------------------


def test_released_start() -> None:
    method = on_tiny()
    for block in method.backbone.towers["text"].blocks:
        assert isinstance(block, FusionBlock)
        assert not block.adapter.up.weight.any()
        assert float(block.cross_modal.up.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert not method.identity_at_init
    batch, plain = make_batch(method.backbone, frames=3), BLIP("tiny", None).eval()
    mine, theirs = (b.encode_text(batch.words).pooled for b in (method.backbone, plain))
    torch.testing.assert_close(mine, theirs)  # only texts alone start as in the plain BLIP
    assert not torch.allclose(match(method.backbone, batch), match(plain, batch), atol=1e-3)


def test_released_start_of_question_answering() -> None:
    """All projections N(0, 0.02), also down and textual ones."""
    method = on_tiny("qa", bottleneck_dim=64)
    for vision, text in zip(*(method.backbone.towers[kind].blocks for kind in ("vision", "text")), strict=True):
        assert isinstance(vision, AdaptedBlock)
        assert isinstance(text, FusionBlock)
        for layer in (text.adapter.shared.down, text.adapter.up, vision.adapter.up, text.cross_modal.up):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert not layer.bias.any()
    assert not method.identity_at_init


@pytest.mark.parametrize("init", ["released", "zero_up"])
def test_question_answering_weighs_no_frames(init: str) -> None:
    method = on_tiny("qa", init=init)
    assert present(method.backbone.fusion).frame_attention is None
    assert method.label == on_tiny("qa", init=init, frame_aware="none").label == "UniAdapter (r=8)"


@pytest.mark.parametrize("kv_lora_dim", [None, 4])
def test_zero_start_is_the_backbone(kv_lora_dim: int | None) -> None:
    method = on_tiny(init="zero_up", frame_aware="none", kv_lora_dim=kv_lora_dim)
    assert method.identity_at_init
    batch, plain = make_batch(method.backbone, frames=3), BLIP("tiny", None).eval()
    torch.testing.assert_close(match(method.backbone, batch), match(plain, batch))
    mine, theirs = (b.encode_video(batch.clips).pooled for b in (method.backbone, plain))
    torch.testing.assert_close(mine, theirs)


# --- equations ----------------------------------------------------------------------------------------------------


def test_example_of_the_released_module() -> None:
    """The figures are those that the class of RERV/UniAdapter gives for these weights."""
    shared = SharedDown(4, 2, 0.1, False, "in")
    text, visual, cross = ModalityAdapter(shared, 4, 0.0), ModalityAdapter(shared, 4, 0.0), CrossModalUp(2, 4, 0.0)
    with torch.no_grad():
        for k, layer in enumerate((shared.down, text.up, cross.up, visual.up)):
            rows, columns = torch.meshgrid(*(torch.arange(n) for n in layer.weight.shape), indexing="ij")
            layer.weight.copy_(((3 * rows + 5 * columns + k) % 7 - 3) / 10)
            layer.bias.copy_(0.01 * (torch.arange(len(layer.bias)) + 1))
    x = torch.tensor([1.0, -2.0, 3.0, 0.5])
    expected = {
        "text": [0.0222347, -0.0050782, 0.0171565, -0.0101565],
        "visual": [-0.0131565, 0.0090782, -0.0182347, 0.0040000],
        "multimodal": [-0.0230078, -0.0475047, 0.1670110, -0.0964985],
    }
    found = {"text": text(x), "visual": visual(x), "multimodal": text.fused(x, cross)}
    for mode, values in expected.items():
        torch.testing.assert_close(found[mode], torch.tensor(values), atol=1e-6, rtol=0)


def test_query_residual_is_only_in_texts_that_read() -> None:
    with_residual = shaken(on_tiny())
    without = on_tiny(query_residual=False)
    without.load_state_dict(with_residual.state_dict())
    batch = make_batch(without.backbone, frames=3)
    mine, theirs = (m.backbone.encode_text(batch.words).pooled for m in (without, with_residual))
    assert mine.equal(theirs)
    assert not torch.allclose(match(without.backbone, batch), match(with_residual.backbone, batch), atol=1e-3)


def test_last_block_shortcut_is_exact() -> None:
    method = shaken(on_tiny(kv_lora_dim=4))
    backbone, batch = method.backbone, make_batch(method.backbone, frames=3)
    assert isinstance(backbone, BLIP)
    memory = backbone.encode_video_tokens(batch.clips).memory
    states, logits = backbone.fuse(batch.words, memory), backbone.match(batch.words, memory)
    torch.testing.assert_close(logits, backbone.itm_head(states[:, 0]), atol=1e-5, rtol=1e-5)


# --- frame-aware attention ----------------------------------------------------------------------------------------


def test_factors_of_the_released_code() -> None:
    """T * softmax(cosine / 4) over the frames, as RERV/UniAdapter has it; [CLS] and single frames are left alone."""
    cosines = torch.tensor([[0.1, 0.3, -0.2, 9.0]])
    real = torch.tensor([[True, True, True, False]])
    factors = key_factors(cosines, real, 3, 4.0)
    expected = torch.tensor([1.0070, 1.0587, 0.9343, 0.0])
    torch.testing.assert_close(factors[0, :, 1], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(factors[0, :, 2], expected, atol=1e-4, rtol=0)
    assert factors[..., 0].eq(1).all()
    assert key_factors(cosines[:, :1], real[:, :1], 3, 4.0).eq(1).all()


@pytest.mark.parametrize(
    ("frame_aware", "training", "evaluation"), [("none", False, False), ("train", True, False), ("both", True, True)]
)
def test_frame_attention_switch(frame_aware: str, training: bool, evaluation: bool) -> None:
    method = on_tiny(frame_aware=frame_aware)
    text, frames = torch.randn(2, 32), torch.randn(2, 3, 32, requires_grad=True)
    real = torch.ones(2, 3, dtype=torch.bool)
    memory = Memory(torch.randn(2, 15, 64), torch.ones(2, 15, dtype=torch.bool))
    fusion = present(method.backbone.fusion)
    found = [method.train(on) and fusion.weigh_frames(memory, text, frames, real).key_scale for on in (True, False)]
    assert [factors is not None for factors in found] == [training, evaluation]
    assert not any(factors.requires_grad for factors in found if factors is not None)


def test_frame_attention_of_one_clip_read_by_many() -> None:
    method = shaken(on_tiny(frame_temperature=0.1))
    backbone, batch = method.backbone, make_batch(method.backbone, frames=3)
    assert isinstance(backbone, BLIP)
    video, memory = backbone.encode_video_tokens(batch.clips.select(slice(1)))
    text = backbone.encode_text(batch.words).pooled
    copies = len(text)
    logits = []
    for rows in (1, copies):
        copied = memory.select(torch.zeros(rows, dtype=torch.long))
        real, frames = batch.clips.mask[:1].expand(rows, -1), video.by_frame().expand(rows, -1, -1)
        logits.append(backbone.match(batch.words, backbone.weigh_frames(copied, text, frames, real)))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
    unscaled = backbone.match(batch.words, memory)
    assert not torch.allclose(logits[0], unscaled, atol=1e-4)


def test_padded_frames_change_nothing() -> None:
    method = shaken(on_tiny(kv_lora_dim=4))
    batch = make_batch(method.backbone, frames=4)
    frames = batch.clips.frames.clone()
    frames[~batch.clips.mask] = 255 - frames[~batch.clips.mask]
    expected = match(method.backbone, batch)
    torch.testing.assert_close(match(method.backbone, with_frames(batch, frames)), expected, atol=1e-6, rtol=1e-5)
    short = batch._replace(
        clips=Clips(*(part[-1:, :2] for part in batch.clips)), words=batch.words.select(slice(-1, None))
    )
    torch.testing.assert_close(match(method.backbone, short), expected[-1:], atol=1e-5, rtol=1e-5)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["retrieval", "qa"])
@pytest.mark.parametrize("init", ["released", "zero_up"])
def test_every_tensor_learns_and_nothing_else(purpose: Purpose, init: str) -> None:
    method = on_tiny(purpose, init=init, kv_lora_dim=4, learnable_scale=True)
    batch, own = questions(method), trainable(method)
    optimizer, moved = torch.optim.SGD(own.values(), lr=0.1), set()
    for _ in range(3):
        found = gradients(method, batch)
        assert found.keys() == own.keys()
        moved |= {name for name, gradient in found.items() if gradient.abs().max() > 0}
        optimizer.step()
    assert moved == own.keys()


def test_checkpointing_and_copies_give_the_same_gradients() -> None:
    method = shaken(on_tiny(kv_lora_dim=4)).train()
    batch = make_batch(method.backbone, frames=3)
    twin = copy.deepcopy(method)
    expected = gradients(method, batch)
    method.backbone.set_gradient_checkpointing(True)
    for found in (gradients(method, batch), gradients(twin, batch)):
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


def test_bf16() -> None:
    method = shaken(on_tiny(kv_lora_dim=4))
    batch = make_batch(method.backbone, frames=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(method, batch)
    assert found.keys() == trainable(method).keys()
    assert all(gradient.isfinite().all() for gradient in found.values())


# --- CLIP ---------------------------------------------------------------------------------------------------------


def clip(folder: Path, text_width: int = 32, text_layers: int = 2) -> CLIP:
    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": text_width, "heads": 2, "layers": text_layers},
    }
    path = folder / "small.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return CLIP(str(path), None)


@pytest.mark.parametrize("text_layers", [2, 3])
def test_clip_of_equal_widths(text_layers: int, tmp_path: Path) -> None:
    method = UniAdapter(backbone=clip(tmp_path, text_layers=text_layers), task=Retrieval(), **SMALL)
    method.adapt()
    shared, up, heads = 2 * 32 + 32 * 8 + 8, 8 * 32 + 32, 2 * 32 * 16
    assert method.parameter_counts()["trainable"] == text_layers * (shared + up) + 2 * up + heads
    own, batch = trainable(method), make_batch(method.backbone, frames=3)
    optimizer, moved = torch.optim.SGD(own.values(), lr=0.1), set()
    for _ in range(2):
        found = gradients(method, batch)
        assert found.keys() == own.keys()
        moved |= {name for name, gradient in found.items() if gradient.abs().max() > 0}
        optimizer.step()
    assert moved == own.keys()


def test_clip_of_unequal_widths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"differ in width \(vision 32, text 24\)"):
        UniAdapter(backbone=clip(tmp_path, text_width=24), task=Retrieval()).adapt()


def test_key_value_adapters_without_cross_attention_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no cross-attention"):
        UniAdapter(backbone=clip(tmp_path), task=Retrieval(), kv_lora_dim=4).adapt()


def test_labels_tell_variants_apart() -> None:
    backbone, task = BLIP("tiny", None), Retrieval()
    variants: list[dict[str, Any]] = [
        {},
        {"bottleneck_dim": 512},
        {"frame_aware": "none"},
        {"frame_aware": "train"},
        {"query_residual": False},
        {"kv_lora_dim": 64},
        {"freeze_cross_norm": True},
    ]
    labels = [UniAdapter(backbone=backbone, task=task, **options).label for options in variants]
    assert labels[:2] == ["UniAdapter (r=128)", "UniAdapter (r=512)"]
    assert len(set(labels)) == len(labels)
