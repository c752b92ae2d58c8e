"""transformers' own BLIP models, which ours must equal, with weights away from their start."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval, BlipForQuestionAnswering

import petl_bench.backbones
from petl_bench.backbones.base import Backbone
from tests.backbones import BLIPS, Purpose

VOCABULARY = Path(petl_bench.backbones.__file__).parent / "architectures" / "blip_tiny_vocab.txt"

#: other widths in both towers, other depths and heads than `tiny`
CONFIG: dict[str, Any] = {
    "image_text_hidden_size": 12,
    "vocabulary": str(VOCABULARY),
    "vision_config": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "vocab_size": 175,
        "max_position_embeddings": 20,
        "hidden_size": 16,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "bos_token_id": 173,
        "sep_token_id": 3,
    },
}
MODELS: dict[Purpose, Any] = {"retrieval": BlipForImageTextRetrieval, "qa": BlipForQuestionAnswering}


class Reference(NamedTuple):
    """A transformers model, its architecture as our `BLIP` takes it, and a folder with its weights."""

    model: Any
    architecture: str
    folder: Path

    def ours(self, purpose: Purpose, **options: Any) -> Any:
        """Our backbone with the same weights, in evaluation mode."""
        return BLIPS[purpose](self.architecture, str(self.folder), **options).eval()


def write_architecture(folder: Path, config: dict[str, Any], name: str = "other") -> Path:
    path = folder / f"blip_{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def make_reference(folder: Path, purpose: Purpose) -> Reference:
    """A transformers model of `CONFIG`, every parameter moved at random, and its folder."""
    config = copy.deepcopy(CONFIG)
    if purpose == "qa":
        config["vision_config"]["hidden_size"] = 16  # transformers' decoder needs equal widths
    architecture = write_architecture(folder, config)
    torch.manual_seed(3)
    config = {key: value for key, value in config.items() if key != "vocabulary"}
    model = MODELS[purpose](BlipConfig.from_dict(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder / purpose)
    return Reference(model, str(architecture), folder / purpose)


def clips(backbone: Backbone, videos: int = 3, frames: int = 2) -> Tensor:
    """Normalised clips (B, T, 3, H, W)."""
    size = backbone.spec.image_size
    return torch.randn(videos, frames, 3, size, size, generator=torch.Generator().manual_seed(4))


def captions(backbone: Backbone, max_words: int = 10) -> tuple[Tensor, Tensor]:
    """Ids and mask of three captions: short, of middle length, and cut."""
    texts = ["a circle", "a red circle moves up", "first left then right and then up and down and up again"]
    words = backbone.spec.tokenize(texts, max_words)
    return words.ids, words.mask


def real_frames(videos: int = 3, frames: int = 2) -> Tensor:
    """Mask (B, T); the last clip has one real frame only."""
    real = torch.ones(videos, frames, dtype=torch.bool)
    real[-1, 1:] = False
    return real


def to_original(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as salesforce/BLIP would have saved it, with what its checkpoints hold besides."""
    renamed = {}
    for key, value in model.state_dict().items():
        for ours, theirs in (
            ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
            ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
            ("vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
            ("vision_model.post_layernorm.", "visual_encoder.norm."),
            ("vision_model.encoder.layers.", "visual_encoder.blocks."),
            (".layer_norm", ".norm"),
            (".self_attn.projection.", ".attn.proj."),
            (".self_attn.", ".attn."),
        ):
            key = key.replace(ours, theirs)
        renamed[key] = value.clone()
    extra = {
        "text_encoder.embeddings.position_ids": torch.arange(20)[None],
        "visual_encoder_m.cls_token": torch.zeros(1, 1, 3),
        "text_proj_m.weight": torch.zeros(2),
        "image_queue": torch.zeros(12, 4),
        "idx_queue": torch.zeros(1, 4),
        "queue_ptr": torch.zeros(1),
        "ptr_queue": torch.zeros(1),
        "temp": torch.tensor(0.05),
    }
    return renamed | extra
