"""UniAdapter equals the released code: adapters, vision tower, BERT alone, reading video and as a decoder.

Of the released options, ours leaves out:

- `temporal_embed`: off in all released configurations, not in the paper, for exactly 8 frames, and frozen in the
  released retrieval training. Its case is compared with the embedding added by hand.
- `adapter_textual: false` for texts alone: our `query_residual: false` is its effect on texts that read, which is what
  the paper ablates and the case holds.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.uniadapter import CrossModalUp, ModalityAdapter, SharedDown, key_factors
from petl_bench.inputs import Words
from petl_bench.nn.layers import Bottleneck
from petl_bench.nn.transformer import Context, Memory
from tests.golden.helpers import Case, assert_gradient, assert_output, golden_files
from tests.golden.official_blip import architecture, create
from tests.golden.official_uniadapter import adapt, build_uniadapter, by_official_names, shared_modules
from tests.inputs import clips_of, tokens_of

SIDE = {"img_size": 8, "patch_size": 8}  # of a vision tower that a case has not
RELEASED_TEMPERATURE = 4.0


# --- one adapter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("uni_adapter__*"))
def test_adapter(path: Path) -> None:
    case = Case(path)
    kwargs = case.json["kwargs"]
    width, rank = kwargs["d_model"], kwargs["bottleneck"]
    scale = kwargs.get("adapter_scalar", "0.1")
    learnable = scale == "learnable_scalar"
    shared = SharedDown(
        width, rank, 1.0 if learnable else float(scale), learnable, kwargs.get("adapter_layernorm_option", "in")
    )
    text, visual = (ModalityAdapter(shared, width, std=0.0) for _ in range(2))
    cross_modal = CrossModalUp(rank, width, std=0.0)
    modules = shared_modules(shared) | {
        "up_proj": text.up,
        "visual_up_proj": visual.up,
        "multi_up_proj": cross_modal.up,
        "adapter_layer_norm_cross_modal": cross_modal.norm,
    }
    parameters = by_official_names("", modules)
    load(parameters, case)

    x = case.tensors["in.x"].requires_grad_()
    deltas = {"text": text(x), "visual": visual(x), "multimodal": text.fused(x, cross_modal)}
    if "mode" in case.json:
        outputs = {"delta": deltas[case.json["mode"]]}
    else:
        outputs = {f"{mode}_delta": delta for mode, delta in deltas.items()}
        outputs |= {f"{mode}_res": x + delta for mode, delta in deltas.items()}
    compare(case, outputs, parameters | {"in.x": x})


@pytest.mark.parametrize("path", golden_files("uni_adapter_lora*"))
def test_key_value_adapter(path: Path) -> None:
    case = Case(path)
    kwargs = case.json["kwargs"]
    layer = Bottleneck(
        kwargs["d_model"], kwargs["bottleneck"], 1.0, learnable_scale=True, activation=torch.nn.Identity()
    )
    modules: dict[str, Any] = {"down_proj": layer.down, "up_proj": layer.up, "scale": layer.scale}
    parameters = by_official_names("", modules)
    load(parameters, case)
    x = case.tensors["in.x"].requires_grad_()
    compare(case, {"y": layer(x)}, parameters | {"in.x": x})


def load(parameters: dict[str, torch.nn.Parameter], case: Case) -> None:
    official = case.group("param")
    assert parameters.keys() == official.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(official[name])


def compare(case: Case, outputs: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Outputs, and gradients of all tensors."""
    assert outputs.keys() == case.group("out").keys()
    for name, output in outputs.items():
        assert_output(output, case.tensors[f"out.{name}"], name)
    backward(case, **outputs)
    gradients = case.group("grad")
    assert {name for name, tensor in tensors.items() if tensor.grad is not None} == gradients.keys()
    for name, gradient in gradients.items():
        assert_gradient(tensors[name].grad, gradient, name)


def backward(case: Case, **outputs: Tensor) -> None:
    """Of the sum of all outputs times their cotangents."""
    torch.stack([(output * case.tensors[f"cot.{name}"]).sum() for name, output in outputs.items()]).sum().backward()


# --- towers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("uni_vit__adapters*"))
def test_vision_tower(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    kwargs = case.json["kwargs"]
    adapted = adapt(create(architecture(kwargs, text_config(kwargs), dec_token=10), tmp_path), case)
    adapted.load(case.group("param"), "visual_encoder.")
    image = case.tensors["in.image"].requires_grad_()
    real = torch.ones(len(image), 1, dtype=torch.bool)
    tokens = tokens_of(adapted.blip, clips_of(image[:, None], real))
    assert_output(tokens[:, 0], case.tensors["out.tokens"], "tokens")
    backward(case, tokens=tokens[:, 0])
    adapted.assert_gradients(case, "visual_encoder.")
    assert_gradient(image.grad, case.tensors["grad.in.image"], "image")


@pytest.mark.parametrize("path", golden_files("uni_bert__*"))
def test_text_tower(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    config = architecture(vision_config(case), case.json["bert_config"], dec_token=10)
    adapted = adapt(create(config, tmp_path), case, "encoder.layer.{}.adapter.", {"encoder.": "text"})
    params = case.group("param")
    time_embed = params.pop("encoder.time_embed", torch.zeros(1, 1, 1)).requires_grad_()  # (1, T, D)
    adapted.load(params, "text_encoder.")
    mask = case.tensors["in.attention_mask"].bool()[:, None, None]
    states = case.tensors.get("in.encoder_hidden_states")
    if case.json["mode"] == "text":
        context = Context(attention_mask=mask)
    else:
        assert states is not None
        context = Context(attention_mask=mask, memory=memory(case, states.requires_grad_(), time_embed))

    x = adapted.blip.text.embed(case.tensors["in.input_ids"])
    for index, block in enumerate(adapted.blip.text.blocks, start=1):
        x = block(x, context)
        assert_output(x, case.tensors[f"out.hidden_{index}"], f"hidden_{index}")
    assert_output(x, case.tensors["out.last_hidden_state"], "last_hidden_state")
    backward(case, last_hidden_state=x)
    if time_embed.numel() > 1:
        assert_gradient(time_embed.grad, case.tensors.pop("grad.encoder.time_embed"), "time_embed")
    if states is not None:
        assert_gradient(states.grad, case.tensors["grad.in.encoder_hidden_states"], "encoder_hidden_states")
    adapted.assert_gradients(case, "text_encoder.")


def memory(case: Case, states: Tensor, time_embed: Tensor) -> Memory:
    """What a text reads, (B, T * L, D), with the frames' positions and weights that the case may have."""
    by_frame = states.unflatten(1, (case.json["frames"], case.json["tokens_per_frame"]))
    tokens = (by_frame + time_embed[:, :, None]).flatten(1, 2)
    weights, key_scale = case.tensors.get("in.frame_aware_attention_weight"), None
    if weights is not None:
        real = torch.ones_like(weights, dtype=torch.bool)
        key_scale = key_factors(weights, real, case.json["tokens_per_frame"], RELEASED_TEMPERATURE).flatten(1)
    return Memory(tokens, case.tensors["in.encoder_attention_mask"].bool(), key_scale)


@pytest.mark.parametrize("path", golden_files("uni_bert_lm*"))
def test_decoder(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    config = architecture(vision_config(case), case.json["bert_config"], dec_token=10)
    blip = create(config, tmp_path, purpose="qa")
    adapted = adapt(blip, case, "bert.encoder.layer.{}.adapter.", {"bert.encoder.": "decoder"})
    # The text encoder has key-value adapters of its own, which are not in this case.
    adapted.load(case.group("param"), "text_decoder.")
    states = case.tensors["in.encoder_hidden_states"].requires_grad_()
    mask = case.tensors["in.attention_mask"].bool()[:, None, None]
    context = Context(attention_mask=mask, memory=Memory(states, case.tensors["in.encoder_attention_mask"].bool()))
    logits = blip.decoder.head(blip.decoder.run(blip.decoder.embed(case.tensors["in.input_ids"]), context))
    assert_output(logits, case.tensors["out.hidden_logits"], "logits")
    labels = case.tensors["in.labels"][:, 1:]
    per_token = F.cross_entropy(logits[:, :-1].mT, labels, reduction="none", label_smoothing=0.1)
    losses = {"loss_none": per_token.sum(1), "loss_mean": per_token.sum() / (labels != -100).sum()}
    for name, loss in losses.items():
        assert_output(loss, case.tensors[f"out.{name}"], name)
    backward(case, **losses)
    assert_gradient(states.grad, case.tensors["grad.in.encoder_hidden_states"], "encoder_hidden_states")
    adapted.assert_gradients(case, "text_decoder.")


def vision_config(case: Case) -> dict[str, Any]:
    """A vision tower as wide and deep as the case's text tower, since they share adapters."""
    bert = case.json["bert_config"]
    width, depth, heads = bert["hidden_size"], bert["num_hidden_layers"], bert["num_attention_heads"]
    return SIDE | {"embed_dim": width, "depth": depth, "num_heads": heads}


def text_config(vision: dict[str, Any]) -> dict[str, Any]:
    """A text tower as wide and deep as the case's vision tower."""
    return {
        "vocab_size": 12,
        "hidden_size": vision["embed_dim"],
        "intermediate_size": 8,
        "num_hidden_layers": vision["depth"],
        "num_attention_heads": vision["num_heads"],
        "max_position_embeddings": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }


# --- whole models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("uni_blip_retrieval__*"))
def test_matching(path: Path, tmp_path: Path) -> None:
    """Logits of positive and negative pairs; with frame-aware attention, also the cosines that weigh the frames."""
    case = Case(path)
    blip = build_uniadapter(case, tmp_path, "retrieval").blip
    inputs, words = case.group("in"), case.tensors["in.attention_mask"].bool()
    clips = inputs["image"] if inputs["image"].ndim == 5 else inputs["image"][:, None]
    real = torch.ones(clips.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        (video, memory), captions = blip.encode_video_tokens(clips_of(clips, real)), Words(inputs["input_ids"], words)
        text = blip.encode_text(captions)
        own = torch.arange(len(clips))
        t = torch.cat([own, own, inputs["neg_text_for_image"]])
        v = torch.cat([own, inputs["neg_image_for_text"], own])
        memory = blip.weigh_frames(memory.select(v), text.pooled[t], video.frames[v], real[v])
        logits = blip.match(captions.select(t), memory)
    assert_output(logits, case.tensors["out.itm_logits"], "itm_logits")
    assert (memory.key_scale is None) == (not case.json["adapter_config"]["frame_aware_attention"])
    if memory.key_scale is not None:
        cosines = torch.cat([case.tensors["out.frame_weight_pos"], case.tensors["out.frame_weight_neg"]])
        tokens = memory.tokens.shape[1] // real.shape[1]
        expected = key_factors(cosines, real[v], tokens, RELEASED_TEMPERATURE).flatten(1)
        assert_output(memory.key_scale, expected, "key_scale")
