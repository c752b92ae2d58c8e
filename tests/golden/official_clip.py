"""Builds our CLIP from the golden cases of MV-Adapter's small CLIPs (official OpenAI layout, q, k and v apart)."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl_bench.backbones.clip.model import CLIP

#: Official names of a block's parameters, but for q, k and v, and ours.
BLOCK_NAMES = {
    "attn.out_proj": "self_attention.out",
    "attn.ln": "ln_1",
    "mlp.c_fc": "fc",
    "mlp.c_proj": "proj",
    "mlp.ln": "ln_2",
}
#: Official names outside the blocks and ours; all other vision names are ours after `visual.` becomes `vision.`.
TEXT_NAMES = {
    "positional_embedding": "text.positional_embedding",
    "text_projection": "text.proj",
    "token_embedding.weight": "text.token_embedding.weight",
    "ln_final.weight": "text.ln_final.weight",
    "ln_final.bias": "text.ln_final.bias",
    "logit_scale": "logit_scale",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")


def build_clip(kwargs: dict[str, Any], folder: Path) -> CLIP:
    """Our CLIP with the dimensions of an official one and random weights."""
    config = {
        "embed_dim": kwargs["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": kwargs["image_resolution"],
            "layers": kwargs["vision_layers"],
            "width": kwargs["vision_width"],
            "head_width": kwargs["vision_width"] // kwargs["vision_heads"],
            "patch_size": kwargs["vision_patch_size"],
        },
        "text_cfg": {
            "context_length": kwargs["context_length"],
            "vocab_size": kwargs["vocab_size"],
            "width": kwargs["transformer_width"],
            "heads": kwargs["transformer_heads"],
            "layers": kwargs["transformer_layers"],
        },
    }
    path = folder / "official-clip.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return CLIP(str(path), None)


def our_clip_tensors(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official CLIP tensors (weights or gradients) under our names, q, k and v joined; adapters' are left out."""
    ours: dict[str, Tensor] = {}
    for name, tensor in official.items():
        block = _BLOCK.fullmatch(name)
        if block is None:
            ours[_outside_blocks(name)] = tensor
        elif block[3] in BLOCK_NAMES:
            ours[f"{_stack(block)}.{BLOCK_NAMES[block[3]]}.{block[4]}"] = tensor
        elif block[3] == "attn.q_proj":
            parts = [official[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            ours[f"{_stack(block)}.self_attention.qkv.{block[4]}"] = torch.cat(parts)
        elif block[3] not in ("attn.k_proj", "attn.v_proj"):
            raise KeyError(name)
    return ours


def _stack(block: re.Match[str]) -> str:
    return f"{'vision' if block[1] else 'text'}.stack.{block[2]}"


def _outside_blocks(name: str) -> str:
    return TEXT_NAMES[name] if name in TEXT_NAMES else f"vision.{name.removeprefix('visual.')}"
