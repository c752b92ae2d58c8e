"""Builds our BLIP from golden cases of salesforce/BLIP and RERV/UniAdapter, and finds its tensors by their names."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.backbones import BLIPS, Purpose
from tests.golden.helpers import Case

#: official names and ours, in the order in which they are replaced
_RENAMED = (
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision.stack.\1.ln_\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.stack.\1.self_attention.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.stack.\1.self_attention.out."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.fc1\.", r"vision.stack.\1.fc."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.fc2\.", r"vision.stack.\1.proj."),
    (r"^visual_encoder\.norm\.", "vision.ln_post."),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision.patch_embedding."),
    (r"^visual_encoder\.pos_embed$", "vision.positional_embedding"),
    (r"^visual_encoder\.cls_token$", "vision.class_embedding"),
    (r"^text_encoder\.", "text."),
    (r"^text_decoder\.(bert\.)?", "decoder."),
    (r"\.embeddings\.word_embeddings\.", ".token_embedding."),
    (r"\.embeddings\.position_embeddings\.weight$", ".positional_embedding"),
    (r"\.embeddings\.LayerNorm\.", ".ln_pre."),
    (r"\.cls\.predictions\.transform\.dense\.", ".transform."),
    (r"\.cls\.predictions\.transform\.LayerNorm\.", ".ln_head."),
    (r"\.cls\.predictions\.bias$", ".bias"),
    (r"\.encoder\.layer\.(\d+)\.", r".stack.\1."),
    (r"\.crossattention\.self\.", ".memory_attention."),
    (r"\.crossattention\.output\.dense\.", ".memory_attention.out."),
    (r"\.crossattention\.output\.LayerNorm\.", ".ln_cross."),
    (r"\.attention\.self\.", ".self_attention."),
    (r"\.attention\.output\.dense\.", ".self_attention.out."),
    (r"\.attention\.output\.LayerNorm\.", ".ln_1."),
    (r"\.intermediate\.dense\.", ".fc."),
    (r"\.output\.dense\.", ".proj."),
    (r"\.output\.LayerNorm\.", ".ln_2."),
)
#: layers that are one layer in ours, by the first of them
_FUSED = {
    ".self_attention.query.": (".self_attention.qkv.", ("query", "key", "value")),
    ".memory_attention.key.": (".memory_attention.key_value.", ("key", "value")),
}
_LATER_PARTS = (".self_attention.key.", ".self_attention.value.", ".memory_attention.value.")

_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
)


def our_name(official: str) -> str:
    """Our name of an official parameter, but for the layers that we fuse."""
    for old, new in _RENAMED:
        official = re.sub(old, new, official)
    return official


def our_tensors(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors (weights or gradients) under our names, queries, keys and values joined."""
    renamed = {our_name(name): tensor for name, tensor in official.items()}
    ours: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        first = next((part for part in _FUSED if part in name), None)
        if first is not None:
            fused, parts = _FUSED[first]
            own = first.split(".")[2]
            members = [renamed[name.replace(f".{own}.", f".{part}.")] for part in parts]
            ours[name.replace(first, fused)] = torch.cat(members)
        elif not any(part in name for part in _LATER_PARTS):
            ours[name] = tensor
    return ours


#: [SEP] of the small vocabularies of the cases, where their json does not say it
SEP_TOKEN = 3


def architecture(
    vision: dict[str, Any], text: dict[str, Any], dec_token: int, embed_dim: int = 8, sep_token: int = SEP_TOKEN
) -> dict[str, Any]:
    """A BlipConfig with the dimensions of an official model (`vit` or `kwargs`, and `bert_config`)."""
    return {
        "image_text_hidden_size": embed_dim,
        "vision_config": {
            "image_size": vision["img_size"],
            "patch_size": vision["patch_size"],
            "hidden_size": vision["embed_dim"],
            "intermediate_size": int(vision["embed_dim"] * vision.get("mlp_ratio", 4)),
            "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["num_heads"],
            "layer_norm_eps": vision.get("norm_eps", 1e-6),
            "initializer_range": 0.02,
        },
        "text_config": {key: text[key] for key in _TEXT_KEYS} | {"bos_token_id": dec_token, "sep_token_id": sep_token},
    }


def create(config: dict[str, Any], folder: Path, weights: Path | None = None, purpose: Purpose = "retrieval") -> Any:
    """Our BLIP of a BlipConfig."""
    path = folder / "official.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return BLIPS[purpose](str(path), None if weights is None else str(weights))


def build_blip(case: Case, folder: Path, purpose: Purpose) -> Any:
    """Our BLIP with the weights of a case, loaded as the official checkpoint they would be; in evaluation mode."""
    tensors = case.group("param")
    embed_dim = len(tensors["vision_proj.weight"]) if "vision_proj.weight" in tensors else 8
    sep_token = case.json.get("sep_token_id", SEP_TOKEN)
    config = architecture(case.json["vit"], case.json["bert_config"], case.json["bos_token_id"], embed_dim, sep_token)
    weights = folder / "official.pth"
    torch.save({"model": tensors}, weights)
    model = create(config, folder, weights, purpose).eval()
    assert model.enc_token == case.json["enc_token_id"]
    return model


def gradients(model: Any) -> dict[str, Tensor]:
    """By our names, without the parameters that got none."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
