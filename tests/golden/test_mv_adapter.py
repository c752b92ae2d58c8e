"""MV-Adapter against its official code: modules, halves of CLIP blocks, and whole small CLIPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.mv_adapter import (
    TRM,
    AdaptedBlock,
    Calibration,
    DownUp,
    Factor,
    MVAdapter,
    TextAdapter,
    Untied,
    VideoAdapter,
    tie_factor,
)
from petl_bench.backbones.clip.model import CLIP, CLIPBlock
from petl_bench.inputs import Words
from petl_bench.nn.transformer import Block, Context
from petl_bench.tasks.losses import contrastive_loss
from petl_bench.tasks.retrieval import Retrieval
from tests.golden.helpers import Case, assert_gradient, assert_output, golden_files
from tests.golden.official_clip import build_clip, our_clip_tensors
from tests.inputs import clips_of, tokens_of

#: Official prefixes of an adapter's parameters and ours; `{tied}` is the projection that the shared factor scales.
ADAPTER_NAMES = {
    "positional_embedding": "mixer.positions",
    "cc": "cc",
    "conv_rf_c.g.": "calibration.clip.",
    "conv_rf_c.a.": "calibration.reduce.",
    "conv_rf_c.b.": "calibration.expand.",
    "ln_in.": "norm_in.",
    "ln_pre.": "mixer.norm.",
    "block.": "mixer.trm.",
    "down.": "down.",
    "up.": "up.",
    "shared_factor": "{tied}.factor",
    "md_proj.": "{tied}.projection.",
}
TRM_NAMES = {
    "attn.in_proj_": "attention.qkv.",
    "attn.out_proj.": "attention.out.",
    "ln_1.": "norm_1.",
    "ln_2.": "norm_2.",
    "mlp.c_fc.": "fc.",
    "mlp.c_proj.": "proj.",
}
CALIBRATION_NAMES = {"g.": "clip.", "a.": "reduce.", "b.": "expand."}

#: Options that no table of the paper, no ablation and no released configuration uses, so they are not in methods/.
LEFT_OUT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "calibration of patches (temporal 'p')": lambda options: "p" in options.get("temporal", []),
    "patches pooled by PCA (random, sign-ambiguous)": lambda options: options.get("pca") not in (None, False),
    "no CC token": lambda options: options.get("no_cc", False),
    "tying of the [CLS] projection alone": lambda options: _position(options).endswith("_cls"),
    "adapter beside the MLP ('par', 'ln_par')": lambda options: options.get("forward", "seq") != "seq",
    "calibration from a sum": lambda options: options.get("concat") is False and options["cc_dim"] > 0,
    "calibration without CC": lambda options: options.get("cc_dim") == 0,
}


def _position(options: Mapping[str, Any]) -> str:
    return options.get("modal_dynamic", {}).get("position", "").replace(" ", "_")


def left_out(path: Path | None) -> list[str]:
    """Why a case is left out, by the values of its options."""
    if path is None:
        return []
    options = Case(path).json["kwargs"]
    nested = [options, options.get("adapter", {})]
    return [reason for reason, uses in LEFT_OUT.items() if any(uses(part) for part in nested)]


def shipped(pattern: str) -> list[Any]:
    return [parameter for parameter in golden_files(pattern) if not left_out(parameter.values[0])]


def not_shipped(*patterns: str) -> list[Any]:
    return [p for pattern in patterns for p in golden_files(pattern) if left_out(p.values[0])]


def rename(official: Mapping[str, Tensor], names: Mapping[str, str], tied: str = "") -> dict[str, Tensor]:
    """Tensors under our names; a KeyError names a tensor that ours do not have."""
    return {_rename(name, names).format(tied=tied): tensor for name, tensor in official.items()}


def _rename(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if name == old or (old[-1] in "._" and name.startswith(old)):
            rest = name[len(old) :]
            return new + (_rename(rest, TRM_NAMES) if old == "block." else rest)
    raise KeyError(name)


def adapter_tensors(official: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    return rename(official, ADAPTER_NAMES, _position(options).split("_")[0])


def backward(case: Case, output: Tensor) -> None:
    """Compares the only output and runs the scalar of the case backwards."""
    (expected,) = case.group("out").values()
    (cotangent,) = case.group("cot").values()
    assert_output(output, expected, "output")
    (output * cotangent).sum().backward()


def assert_gradients(module: nn.Module, expected: Mapping[str, Tensor]) -> None:
    assert expected
    parameters = dict(module.named_parameters())
    for name, gradient in expected.items():
        assert_gradient(parameters[name].grad, gradient, name)


def split_gradients(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Expected gradients of parameters and of inputs, by official names."""
    gradients = case.group("grad")
    inputs = {name[3:]: gradient for name, gradient in gradients.items() if name.startswith("in.")}
    return {name: gradient for name, gradient in gradients.items() if not name.startswith("in.")}, inputs


def tie(adapter: DownUp, options: Mapping[str, Any], factor_dim: int | None) -> None:
    """Ties an adapter as the case has it; the layer of a case may be outside the tied ones."""
    if factor_dim is not None:
        tie_factor(adapter, nn.Parameter(torch.zeros(factor_dim)), _position(options))  # type: ignore[arg-type]  # json


def factor_dim(options: Mapping[str, Any]) -> int | None:
    tying = options.get("modal_dynamic")
    return tying["factor_dim"] if tying and options["idx"] in tying["adapter_idx"] else None


def video_adapter(options: Mapping[str, Any], official: Mapping[str, Tensor]) -> VideoAdapter:
    """Our video adapter with the weights of an official one."""
    hidden = official["conv_rf_c.a.weight"].shape[0] if options["temporal"] else None
    adapter = VideoAdapter(
        options["embed_dim"],
        options["cls_mid"],
        options.get("scale", 0.1),
        options.get("lnin", False),
        options["n_head"],
        options["seq_len"],
        hidden,
    )
    tie(adapter, options, factor_dim(options))
    adapter.load_state_dict(adapter_tensors(official, options))
    return adapter


def video_context(case: Case) -> Context:
    mask = case.tensors["in.casual_mask"].bool()
    return Context(steps=mask.shape[1], step_mask=mask)


def check_video_adapter(path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    adapter = video_adapter(options, case.group("param"))
    x = case.tensors["in.x"].requires_grad_()
    backward(case, adapter(x.transpose(0, 1), video_context(case)).transpose(0, 1))
    parameters, inputs = split_gradients(case)
    assert_gradients(adapter, adapter_tensors(parameters, options))
    assert_gradient(x.grad, inputs["x"], "x")


def check_calibration(path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    calibration = Calibration(options["c_in"], options["mid_dim"])
    calibration.load_state_dict(rename(case.group("param"), CALIBRATION_NAMES))
    frames, clip = (case.tensors[f"in.{name}"].requires_grad_() for name in ("cls_emb", "cc_emb"))
    backward(case, calibration(frames, clip, case.tensors["in.v_mask"].bool()))
    parameters, inputs = split_gradients(case)
    assert_gradients(calibration, rename(parameters, CALIBRATION_NAMES))
    assert_gradient(frames.grad, inputs["cls_emb"], "cls_emb")
    assert_gradient(clip.grad, inputs["cc_emb"], "cc_emb")


def clip_block(width: int, heads: int, causal: bool) -> CLIPBlock:
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock

    return CLIPBlock(ResidualAttentionBlock(width, heads, act_layer=QuickGELU), causal)


def check_mlp(path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    native = clip_block(options["d_model"], 1, causal=False)
    block: Block = native
    official = case.group("param")
    adapter = {k.removeprefix("adapter."): v for k, v in official.items() if k.startswith("adapter.")}
    if adapter:
        assert options["idx"] in options["adapter"]["adapter_idx"]
        block = AdaptedBlock(native, video_adapter(options["adapter"] | {"idx": options["idx"]}, adapter))
    names = {"c_fc.": "fc.", "c_proj.": "proj.", "ln.": "ln_2."}
    loaded = rename({k: v for k, v in official.items() if not k.startswith("adapter.")}, names)
    assert not native.load_state_dict(loaded, strict=False).unexpected_keys
    x = case.tensors["in.x"].requires_grad_()
    rows = x.transpose(0, 1)
    backward(case, block.after_feed_forward(rows, block.feed_forward(rows, video_context(case))).transpose(0, 1))
    parameters, inputs = split_gradients(case)
    assert_gradients(native, rename({k: v for k, v in parameters.items() if not k.startswith("adapter.")}, names))
    assert_gradient(x.grad, inputs["x"], "x")
    if isinstance(block, AdaptedBlock):
        gradients = {k.removeprefix("adapter."): v for k, v in parameters.items() if k.startswith("adapter.")}
        assert_gradients(block.adapter, adapter_tensors(gradients, options["adapter"]))


CHECKS: dict[str, Callable[[Path], None]] = {
    "mv_video_adapter": check_video_adapter,
    "mv_ta_module": check_calibration,
    "mv_clip_mlp": check_mlp,
}


@pytest.mark.parametrize("path", shipped("mv_video_adapter__*"))
def test_video_adapter(path: Path) -> None:
    check_video_adapter(path)


@pytest.mark.parametrize("path", shipped("mv_ta_module__*"))
def test_calibration(path: Path) -> None:
    check_calibration(path)


@pytest.mark.parametrize("path", shipped("mv_clip_mlp__*"))
def test_feed_forward_half(path: Path) -> None:
    check_mlp(path)


@pytest.mark.parametrize("path", not_shipped(*(f"{kind}__*" for kind in CHECKS)))
def test_left_out_options_are_other_functions(path: Path) -> None:
    # Guards LEFT_OUT: a case that our modules do reproduce must not be left out.
    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        CHECKS[path.stem.split("__")[0]](path)


@pytest.mark.parametrize("path", shipped("mv_text_adapter__*"))
def test_text_adapter(path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    adapter = TextAdapter(
        options["embed_dim"],
        options["mid_dim"],
        options["scale"],
        options.get("lnin", False),
        options["n_head"],
        options["seq_len"],
        causal=options["attn_type"] == "uni",  # else as in a tower whose attention reads both ways
    )
    tie(adapter, options, factor_dim(options))
    adapter.load_state_dict(adapter_tensors(case.group("param"), options))
    x = case.tensors["in.x"].requires_grad_()
    backward(case, adapter(x.transpose(0, 1), Context()).transpose(0, 1))
    parameters, inputs = split_gradients(case)
    assert_gradients(adapter, adapter_tensors(parameters, options))
    assert_gradient(x.grad, inputs["x"], "x")


@pytest.mark.parametrize("path", golden_files("mv_trans_block__*"))
def test_trm(path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    trm = TRM(options["d_model"], options["n_head"], options["d_model"], causal=options["attn_type"] == "uni")
    trm.load_state_dict(rename(case.group("param"), TRM_NAMES))
    x = case.tensors["in.x"].requires_grad_()
    mask = case.tensors.get("in.attn_mask")  # (B * heads, N, N), added to the logits: 0 or -1e6
    if mask is not None:
        mask = (mask == 0).unflatten(0, (-1, options["n_head"]))
    backward(case, trm(x.transpose(0, 1), mask).transpose(0, 1))
    parameters, inputs = split_gradients(case)
    assert_gradients(trm, rename(parameters, TRM_NAMES))
    assert_gradient(x.grad, inputs["x"], "x")


@pytest.mark.parametrize("path", golden_files("mv_clip_attention__*"))
def test_attention_half(path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    x = case.tensors["in.x"].requires_grad_()
    mask = case.tensors.get("in.attn_mask_inf_ok")
    if mask is not None:
        assert torch.equal(mask == 0, torch.ones_like(mask, dtype=torch.bool).tril())
    block = clip_block(options["d_model"], options["n_head"], causal=mask is not None)
    assert not block.load_state_dict(attention_tensors(case.group("param")), strict=False).unexpected_keys
    rows = x.transpose(0, 1)
    backward(case, block.after_attention(rows, block.attend(rows, Context())).transpose(0, 1))
    parameters, inputs = split_gradients(case)
    assert_gradients(block, attention_tensors(parameters))
    assert_gradient(x.grad, inputs["x"], "x")


def attention_tensors(official: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "transformer.resblocks.0.attn."
    ours = our_clip_tensors({prefix + name: tensor for name, tensor in official.items()})
    return {name.removeprefix("text.stack.0."): tensor for name, tensor in ours.items()}


def method_arguments(options: dict[str, Any], official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our arguments for an official adapter configuration."""
    visual, text = options["adapter"]["visual"]["mlp"], options["adapter"]["text"]["mlp"]
    layers = {"visual": options["vision_layers"], "text": options["transformer_layers"]}
    for kind, branch in (("visual", visual), ("text", text)):
        assert sorted(branch["adapter_idx"]) == list(range(layers[kind])), "an adapter in every layer"
    assert visual["cls_mid"] == text["mid_dim"]
    assert visual["n_head"] == text["n_head"]
    assert visual.get("lnin", False) == text.get("lnin", False)
    assert visual.get("scale", 0.1) == text.get("scale", 0.1)
    arguments: dict[str, Any] = {
        "bottleneck_dim": visual["cls_mid"],
        "tying": Untied(),
        "ln_in": visual.get("lnin", False),
        "heads": visual["n_head"],
        "scale": visual.get("scale", 0.1),
        "max_frames": visual["seq_len"],
        "max_words": text["seq_len"],
        "calibration_dim": next(v.shape[0] for k, v in official.items() if k.endswith("conv_rf_c.a.weight")),
    }
    tying = options["adapter"].get("modal_dynamic")
    if tying is None:
        return arguments
    tied: list[int] = []
    for kind, depth in layers.items():
        tied = tying["adapter_idx"][kind] if isinstance(tying["adapter_idx"], dict) else tying["adapter_idx"]
        assert sorted(tied) == list(range(depth - len(tied), depth)), "the last layers are tied"
    position: Any = _position(options["adapter"])
    return arguments | {"tying": Factor(position, len(tied), tying["factor_dim"])}


def adapter_parts(
    tensors: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Tensors of each adapter by tower and layer, with the shared factors that json `aliases` names."""
    parts: dict[tuple[str, int], dict[str, Tensor]] = {}
    everything = dict(tensors) | {alias: tensors[name] for alias, name in aliases.items()}
    for name, tensor in everything.items():
        where, found, rest = name.partition(".mlp.adapter.")
        if found:
            kind = "vision" if where.startswith("visual.") else "text"
            parts.setdefault((kind, int(where.rpartition(".")[2])), {})[rest] = tensor
    return parts


def clip_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = {k: v for k, v in tensors.items() if ".adapter." not in k and not k.startswith("prompt.")}
    return our_clip_tensors(own)


def adapted(clip: CLIP, case: Case, options: dict[str, Any]) -> MVAdapter:
    """Our method on `clip`, with the adapters' weights of the case."""
    official = case.group("param")
    method = MVAdapter(backbone=clip, task=Retrieval(), **method_arguments(options, official))
    method.adapt()
    parts = adapter_parts(official, case.json["aliases"])
    assert len(parts) == sum(len(tower.blocks) for tower in clip.towers.values())
    for (kind, layer), tensors in parts.items():
        adapter_at(clip, kind, layer).load_state_dict(adapter_tensors(tensors, options["adapter"]))
    return method


def adapter_at(clip: CLIP, kind: str, layer: int) -> DownUp:
    block = clip.towers[kind].blocks[layer]
    assert isinstance(block, AdaptedBlock)
    return block.adapter


@pytest.mark.parametrize("path", golden_files("mv_clip__*"))
def test_clip(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    options = case.json["kwargs"]
    clip = build_clip(options, tmp_path)
    clip.load_state_dict(clip_part(case.group("param")))
    native = dict(clip.named_parameters())
    method = adapted(clip, case, options) if options["adapter"] else None

    frames = case.tensors["in.video"].requires_grad_()
    frame_mask, ids = case.tensors["in.v_mask"].bool(), case.tensors["in.text_ids"].long()
    text_mask = case.tensors["in.t_mask"].bool()
    video, text = clip.encode_video(clips_of(frames, frame_mask)), clip.encode_text(Words(ids, text_mask))
    out = case.group("out")
    assert_output(video.by_frame().flatten(0, 1), out["image_features"], "image_features")
    assert_output(text.pooled, F.normalize(out["text_features"], dim=-1), "text_features")
    scale = clip.logit_scale.exp()
    assert_output(scale * text.pooled @ video.pooled.T, out["t2v_logits"], "t2v_logits")
    assert_output(scale * video.pooled @ text.pooled.T, out["v2t_logits"], "v2t_logits")
    loss = contrastive_loss(text.pooled, video.pooled, scale)
    assert_output(loss, out["loss"], "loss")

    with torch.no_grad():
        video_tokens = tokens_of(clip, clips_of(frames, frame_mask))
        text_tokens = clip.encode_text_tokens(Words(ids, text_mask)).tokens
    assert_output(clip.vision.head(video_tokens).flatten(0, 1), out["image_hidden"], "image_hidden")
    assert_output(clip.text.head(text_tokens), out["text_hidden"], "text_hidden")

    loss.backward()
    parameters, inputs = split_gradients(case)
    assert_gradient(frames.grad, inputs["video"], "video")
    clip_gradients = clip_part(parameters)
    for name, gradient in clip_gradients.items():
        assert_gradient(native[name].grad, gradient, name)
    if method is None:
        return
    for (kind, layer), gradients in adapter_parts(parameters, case.json["aliases"]).items():
        assert_gradients(adapter_at(clip, kind, layer), adapter_tensors(gradients, options["adapter"]))
    # What trains is what the official groups train.
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert trained == sum(gradient.numel() for gradient in parameters.values())
