"""Small CLIPs with an adapter method inside, as the official retrieval codes store them (`clip.visual...`).

A case has pixels, ids and masks, the weights of the model by official names, and what came out: features, hidden
states, logits, the training loss and its gradients for all that the official code trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.backbones.clip.model import CLIP
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.nn.layers import LoRALinear
from petl_bench.tasks.losses import contrastive_loss
from tests.golden.helpers import Case, assert_gradient, assert_output
from tests.golden.official_clip import build_clip
from tests.golden.official_vit import Slots, below, clip_block_slots, slots

#: options of the CLIP itself, and the sizes of the batch
CLIP_OPTIONS = (
    *("embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size", "vision_heads"),
    *("context_length", "vocab_size", "transformer_width", "transformer_heads", "transformer_layers"),
    *("max_words", "max_frames", "batch"),
)


class Inputs(NamedTuple):
    """Pixels (B, T, 3, H, W), frames that are real (B, T), ids (B, N), and tokens that are words (B, N)."""

    frames: Tensor
    frame_mask: Tensor
    ids: Tensor
    text_mask: Tensor


class Similarity(NamedTuple):
    """Logits (texts, videos) times the scale, and the training loss."""

    logits: Tensor
    loss: Tensor


def inputs_of(case: Case) -> Inputs:
    frames = case.tensors["in.video"]
    mask = case.tensors.get("in.v_mask", torch.ones(frames.shape[:2]))
    return Inputs(frames, mask.bool(), case.tensors["in.text_ids"].long(), case.tensors["in.t_mask"].bool())


def clip_of(case: Case, folder: Path) -> tuple[CLIP, Slots]:
    """Our CLIP with the dimensions of the case, and its parameters by official names. Method modules come later."""
    clip = build_clip(case.json["kwargs"], folder)
    vision, text = clip.vision, clip.text
    found: Slots = {
        f"visual.{name}": getattr(vision, name) for name in ("class_embedding", "positional_embedding", "proj")
    }
    for name in ("conv1", "ln_pre", "ln_post"):
        found |= slots(f"visual.{name}", getattr(vision, name))
    found |= slots("token_embedding", text.token_embedding) | slots("ln_final", text.ln_final)
    found |= {"positional_embedding": text.positional_embedding, "text_projection": text.proj}
    for kind, index, name in block_names(clip):
        found |= below(name, clip_block_slots(clip.towers[kind].blocks[index]))  # type: ignore[arg-type]  # native still
    return clip, below("clip", found | {"logit_scale": clip.logit_scale})


def block_names(clip: CLIP) -> Iterable[tuple[str, int, str]]:
    """Tower, index and official name of every block."""
    for kind, prefix in (("vision", "visual."), ("text", "")):
        for index in range(len(clip.towers[kind].blocks)):
            yield kind, index, f"{prefix}transformer.resblocks.{index}"


def lora_slots(layer: nn.Module) -> Slots:
    """By the names that the LoRA line's attention gives its two matrices."""
    assert isinstance(layer, LoRALinear)
    return {"TVPt_LoRA_a": layer.update.a.weight, "TVPt_LoRA_b": layer.update.b.weight}


def lora_slots_of(clip: CLIP) -> Slots:
    """LoRA of all blocks, by official names."""
    found: Slots = {}
    for kind, index, name in block_names(clip):
        found |= below(f"clip.{name}.attn", lora_slots(clip.towers[kind].blocks[index].attention.qkv))
    return found


def hidden_states(blocks: Sequence[nn.Module], run: Callable[[], object]) -> list[Any]:
    """What the first block reads and what each one gives, while `run` runs."""
    states: list[Any] = []
    handles = [blocks[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
    handles += [block.register_forward_hook(lambda _, inputs, output: states.append(output)) for block in blocks]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return states


def assert_text_hidden(clip: CLIP, case: Case, ids: Tensor, mask: Tensor, name: str = "text_hidden") -> None:
    """Of words only: the LoRA line hides padding from padding, which no feature reads."""
    states = hidden_states(clip.text.blocks, lambda: clip.encode_text_tokens(Words(ids, mask)))
    for k, state in enumerate(states):
        assert_output(state[mask], case.tensors[f"out.{name}_{k}"][mask], f"{name}_{k}")
    assert f"out.{name}_{len(states)}" not in case.tensors


def mean_pooled(clip: CLIP, text: Tensor, videos: Tensor) -> Similarity:
    """Of features after L2 normalisation."""
    scale = clip.logit_scale.exp()
    return Similarity(scale * text @ videos.T, contrastive_loss(text, videos, scale))


def assert_similarity(case: Case, similarity: Similarity) -> None:
    assert_output(similarity.logits, case.tensors["out.t2v_logits"], "t2v_logits")
    assert_output(similarity.logits.T, case.tensors["out.v2t_logits"], "v2t_logits")
    assert_output(similarity.loss, case.tensors["out.loss"], "loss")


def assert_trained(method: Method, found: Slots, case: Case) -> None:
    """What trains is what the official code trains, and each tensor has the official gradient, also none or zero."""
    trained = {name: slot for name, slot in found.items() if slot.requires_grad}
    assert {id(p) for p in method.parameters() if p.requires_grad} == {id(slot) for slot in trained.values()}
    assert sum(slot.numel() for slot in trained.values()) == case.json["trainable_count"]
    expected = case.group("grad")
    assert trained.keys() == set(case.json["official_trainable"])
    assert trained.keys() - expected.keys() == set(case.json["grad_none"])
    assert_gradients(trained, expected)
    for name in case.json["grad_all_zero"]:
        assert not expected[name].any()


def assert_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Where the official code gives a tensor no gradient, ours has none either."""
    for name, slot in found.items():
        if name not in expected:
            assert slot.grad is None, f"{name}: a gradient where the official code has none"
            continue
        gradient = None if slot.grad is None else slot.grad.view_as(expected[name])
        assert_gradient(gradient, expected[name], name)


def normalised(features: Tensor) -> Tensor:
    return F.normalize(features, dim=-1)
