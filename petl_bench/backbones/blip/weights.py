"""Finds, verifies and loads BLIP weights into a transformers model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from petl_bench.backbones.described import Description, Facts, Family, describe, require_described, with_size
from petl_bench.backbones.weights import WeightFiles, local_files, packaged, place_of, read_tensors, require_match
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.inputs import InputSpec
from petl_bench.storage.untrusted import shown

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_POSITIONS = "vision_model.embeddings.position_embedding"
#: to the token embedding of the decoder; transformers ties them anew
TIED = ("text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias")
#: names in salesforce/BLIP and in transformers (its `convert_blip_original_pytorch_to_hf.py`)
_RENAMED = (
    (r"^visual_encoder\.", "vision_model."),
    (r"^vision_model\.blocks\.", "vision_model.encoder.layers."),
    (r"^(vision_model\..*)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(vision_model\..*)\.attn\.qkv\.", r"\1.self_attn.qkv."),
    (r"^(vision_model\..*)\.attn\.proj\.", r"\1.self_attn.projection."),
    (r"^vision_model\.norm\.", "vision_model.post_layernorm."),
    (r"^vision_model\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^vision_model\.pos_embed$", _POSITIONS),
    (r"^vision_model\.cls_token$", "vision_model.embeddings.class_embedding"),
)


class Start(NamedTuple):
    """What a class of backbones starts from.

    Attributes:
        parts: of a checkpoint.
        files: that have them, for messages.
    """

    parts: tuple[str, ...]
    files: str


@dataclass(frozen=True)
class Weights:
    """Where weights come from, and what the configuration beside them says."""

    found: WeightFiles
    described: Description

    def assumed(self, used: InputSpec) -> dict[str, Any]:
        """What nobody says of them, and what is taken for it; but for the tokeniser."""
        found = {} if self.described.facts else {"activation": "gelu"}
        return found | self.described.pixels.assumed(used)

    @property
    def vocabulary(self) -> Path | None:
        """The tokeniser's, where it lies beside them."""
        path = self.found.folder / "vocab.txt"
        return path if self.described.facts and path.is_file() else None


def find_weights(pretrained: str) -> Weights:
    """The local files of `pretrained`, a file or a transformers folder.

    Raises:
        UsageError: if it is neither.
        CheckpointError: if a folder has no weights, or what lies beside them is damaged.
    """
    found = local_files(pretrained, _WEIGHT_FILES)
    if found is None:
        raise _nothing(pretrained)
    return Weights(found, with_size(describe(found.folder, _FAMILY)))


def whereabouts(pretrained: str) -> str:
    """Where weights are, in a few words; nothing is fetched.

    Raises:
        UsageError: if `pretrained` is no file, folder or repository.
        CheckpointError: they are damaged, or neither here nor to be had.
    """
    if (found := place_of(pretrained, _WEIGHT_FILES)) is None:
        raise _nothing(pretrained)
    return found


def _nothing(pretrained: str) -> UsageError:
    return UsageError(
        f"pretrained '{pretrained}' is no file, folder or hf-hub:owner/name, and not {packaged()}: download BLIP's "
        ".pth (github.com/salesforce/BLIP) or a transformers folder and give its path; null gives random weights"
    )


def require_fit(architecture: str, config: dict[str, Any], image_size: int | None, weights: Weights) -> None:
    """Refuses, before anything large is built or read, weights that cannot be this architecture's.

    Args:
        architecture: its name.
        config: its BlipConfig.
        image_size: that the user chose; null takes the architecture's.
        weights: as found.

    Raises:
        UsageError: if the configuration beside the weights is of another architecture.
        CheckpointError: if a file is something else than weights.
    """
    own = facts_of(config)
    if image_size is not None:
        own = {name: value for name, value in own.items() if "image size" not in name}
    require_described(weights.described, own, weights.found.source, architecture, partial(_advice, own))
    weights.found.require_weights()


def load_weights(model: nn.Module, start: Start, weights: Weights) -> tuple[dict[str, str | None], float]:
    """Loads weights into a transformers BLIP model, strictly.

    Args:
        model: on any device; its parameters are replaced, but for those tied to others.
        start: what of the weights the model has.
        weights: BLIP's `.pth`, or files of transformers.

    Returns:
        Provenance for the run record, and the temperature (0.07, the start of BLIP's training, if not in the file).

    Raises:
        CheckpointError: if the file cannot be read, is damaged, was trained for something else or does not fit.
    """
    found = weights.found
    state = from_original(read_tensors(found))
    temperature = _temperature(state.pop("temp", None), found.shown)
    _require_parts(state, start, found.shown)
    state = {key: value for key, value in state.items() if key.split(".")[0] in start.parts}
    own = {key: value for key, value in model.state_dict().items() if key not in TIED}
    require_match(state, own, found.shown, _fits)
    state[_POSITIONS] = resize_positions(state[_POSITIONS], own[_POSITIONS].shape[1])
    model.load_state_dict(state, strict=False, assign=True)  # all but the tied ones, which nobody reads
    provenance: dict[str, str | None] = {
        "source": found.source,
        "file": found.name,
        "sha256": found.sha256,
        "described_by": weights.described.shown or None,
    }
    return provenance, temperature


#: special tokens of the text towers
_TOKENS = {name: name for name in ("bos_token_id", "sep_token_id", "pad_token_id")}
#: how transformers describes BLIP. The epsilon of the vision tower's norms is left out: transformers and the hub say
#: 1e-5, BLIP was trained with 1e-6
_FAMILY = Family(
    name="blip",
    whole={"image_text_hidden_size": "joint width"},
    vision={"image_size": "image size", "patch_size": "patch size"},
    text={"max_position_embeddings": "context length", "vocab_size": "vocabulary size", **_TOKENS},
    heads={"vision": 12, "text": 8},
    activation="gelu",
)


def facts_of(config: dict[str, Any]) -> Facts:
    """What a BlipConfig says of an architecture, transformers' defaults included."""
    from transformers import BlipConfig

    read: Any = BlipConfig.from_dict(config)
    vision, text = read.vision_config, read.text_config
    facts: Facts = {
        "joint width": read.image_text_hidden_size,
        "image size": vision.image_size,
        "image size of the preprocessor": vision.image_size,
        "patch size": vision.patch_size,
        "context length": text.max_position_embeddings,
        "vocabulary size": text.vocab_size,
        **{name: getattr(text, name) for name in _TOKENS},
    }
    for kind, tower in (("vision", vision), ("text", text)):
        facts |= {
            f"{kind} width": tower.hidden_size,
            f"{kind} layers": tower.num_hidden_layers,
            f"{kind} heads": tower.num_attention_heads,
            f"{kind} feed-forward width": tower.intermediate_size,
            f"{kind} activation": tower.hidden_act,
        }
    return facts


def _advice(own: Facts, differing: Facts) -> str:
    """What to set for weights that differ in this from an architecture."""
    if all("image size" in name for name in differing):
        side = shown(next(iter(differing.values())))
        return f"set backbone.image_size {side}, or {own['image size']} to interpolate the positions on purpose"
    return f"give a BlipConfig (JSON) with the other {', '.join(differing)} as backbone.architecture"


def _temperature(stored: Tensor | None, shown: str) -> float:
    if stored is None:
        return 0.07
    if stored.numel() != 1 or not 0 < stored.item() < torch.inf:
        raise CheckpointError(f"{shown}: temp is {stored.tolist()}, not a positive number; the file is damaged")
    return stored.item()


def from_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors of salesforce/BLIP to transformers' names; those of transformers stay as they are.

    Momentum copies, queues, position numbers and the tied output layer are left out.
    """
    out = {}
    for key, value in state.items():
        owner = key.split(".")[0]
        if owner.endswith(("_m", "queue")) or key.endswith(".position_ids") or key in TIED:
            continue
        for old, new in _RENAMED:
            key = re.sub(old, new, key)
        out[key] = value
    return out


def resize_positions(positions: Tensor, length: int) -> Tensor:
    """Positions (1, 1 + P, D) of [CLS] and a square grid, on another grid (1, length, D); bicubic, as BLIP does it."""
    if positions.shape[1] == length:
        return positions
    old, new = isqrt(positions.shape[1] - 1), isqrt(length - 1)
    grid = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)  # (1, D, old, old)
    grid = nn.functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _require_parts(state: dict[str, Tensor], start: Start, shown: str) -> None:
    parts = {key.split(".")[0] for key in state}
    missing = [part for part in start.parts if part not in parts]
    if missing:
        raise CheckpointError(
            f"{shown} is {_kind(parts)}, without {', '.join(missing)}, from which this backbone starts: give "
            f"{start.files}"
        )


def _kind(parts: set[str]) -> str:
    if "vision_model" not in parts:
        return "no BLIP checkpoint"
    if "text_decoder" in parts:
        trained = "question answering" if "text_encoder" in parts else "captioning"
        return f"a BLIP fine-tuned for {trained}"
    return "a BLIP fine-tuned for retrieval" if "itm_head" in parts else "an incomplete BLIP checkpoint"


def _fits(key: str, given: torch.Size, own: torch.Size) -> bool:
    """Equal shapes, but for positions on another square grid."""
    if key != _POSITIONS:
        return given == own
    patches = given[1] - 1 if len(given) == 3 and given[0] == 1 and given[2] == own[2] else 0
    return patches > 0 and isqrt(patches) ** 2 == patches
