"""open_clip's own models, which our towers must equal, with weights away from their start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import Tensor

import petl_bench.backbones
from petl_bench.backbones.base import Backbone

TINY = Path(petl_bench.backbones.__file__).parent / "architectures" / "tiny.json"

#: other activation, layer scale, other widths, patches, context and depths than `tiny`
GELU = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 48,
        "head_width": 12,
        "patch_size": 8,
        "ls_init_value": 0.5,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 3,
        "ls_init_value": 0.5,
    },
}


class Reference(NamedTuple):
    """An open_clip model, its architecture as our `CLIP` takes it, and a file of its weights."""

    model: Any
    architecture: str
    weights: Path


def write_architecture(folder: Path, name: str, config: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def make_reference(folder: Path, architecture: Path) -> Reference:
    """The open_clip model of an architecture file, every parameter moved at random, and its state dict on disk."""
    open_clip.add_model_config(architecture)
    torch.manual_seed(3)
    model = open_clip.create_model(architecture.stem).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    weights = folder / f"{architecture.stem}.bin"
    torch.save(model.state_dict(), weights)
    return Reference(model, str(architecture), weights)


def pictures(count: int, size: int) -> Tensor:
    """Normalised pictures, (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


def captions(backbone: Backbone, max_words: int = 10) -> tuple[Tensor, Tensor]:
    """Ids and mask of three captions: short, of middle length, and cut."""
    texts = ["a cat", "two people dance in the rain", "first left then right and then up and down and up again"]
    words = backbone.spec.tokenize(texts, max_words)
    return words.ids, words.mask


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)
