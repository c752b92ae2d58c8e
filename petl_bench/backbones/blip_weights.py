"""Finds, verifies and loads BLIP weights into a transformers model."""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl_bench.backbones.weights import reading, require_match
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.results import file_sha256

Purpose = Literal["retrieval", "qa"]

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_POSITIONS = "vision_model.embeddings.position_embedding"
_TIED = ("text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias")
#: parts of a checkpoint that each purpose starts from
_NEEDED: dict[Purpose, tuple[str, ...]] = {
    "retrieval": ("vision_model", "text_encoder", "vision_proj", "text_proj", "itm_head"),
    "qa": ("vision_model", "text_encoder", "text_decoder"),
}
_RIGHT_FILES: dict[Purpose, str] = {
    "retrieval": "model_base.pth or a model_*_retrieval_*.pth",
    "qa": "model_base.pth or a model_*vqa*.pth",
}
#: names in salesforce/BLIP and in transformers (specs/uniadapter.md section 11.2)
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


def find_weights(pretrained: str) -> Path:
    """The local file of `pretrained`, a file or a transformers folder.

    Raises:
        UsageError: if it is neither.
        CheckpointError: if a folder has no weights.
    """
    path = Path(pretrained).expanduser()
    if path.is_dir():
        file = next((path / name for name in _WEIGHT_FILES if (path / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{path} has no weights: expected one of {', '.join(_WEIGHT_FILES)}")
        return file
    if path.is_file():
        return path
    raise UsageError(
        f"pretrained '{pretrained}' is no file or folder: download BLIP's .pth (github.com/salesforce/BLIP) or a "
        "transformers folder and give its path; null gives random weights"
    )


def load_weights(model: nn.Module, purpose: Purpose, source: str, path: Path) -> tuple[dict[str, str | None], float]:
    """Loads weights into a transformers BLIP model of the same purpose, strictly.

    Args:
        model: on any device; its parameters are replaced, but for those tied to others.
        purpose: what the model is for.
        source: as the user gave it.
        path: BLIP's `.pth`, or a file of transformers.

    Returns:
        Provenance for the run record, and the temperature (0.07, the start of BLIP's training, if not in the file).

    Raises:
        CheckpointError: if the file cannot be read, is damaged, was trained for another purpose or does not fit.
    """
    state = _read(path)
    temperature = _temperature(state.pop("temp", None), path)
    _require_purpose(state, purpose, path)
    state = {key: value for key, value in state.items() if key.split(".")[0] in _NEEDED[purpose]}
    own = {key: value for key, value in model.state_dict().items() if key not in _TIED}
    require_match(state, own, path, _fits)
    state[_POSITIONS] = resize_positions(state[_POSITIONS], own[_POSITIONS].shape[1])
    model.load_state_dict(state, strict=False, assign=True)  # all but the tied ones, which nobody reads
    weights: dict[str, str | None] = {"source": source, "file": path.name, "sha256": file_sha256(path)}
    return weights, temperature


def _temperature(stored: Tensor | None, path: Path) -> float:
    if stored is None:
        return 0.07
    if stored.numel() != 1 or not 0 < stored.item() < torch.inf:
        raise CheckpointError(f"{path}: temp is {stored.tolist()}, not a positive number; the file is damaged")
    return stored.item()


def from_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors of salesforce/BLIP to transformers' names; those of transformers stay as they are.

    Momentum copies, queues, position numbers and the tied output layer are left out.
    """
    out = {}
    for key, value in state.items():
        owner = key.split(".")[0]
        if owner.endswith(("_m", "queue")) or key.endswith(".position_ids") or key in _TIED:
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


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file by transformers' names; never executes what a pickle asks for."""
    with reading(path):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            content = content.get("model", content)
        return from_original({key: value.float() for key, value in content.items()})


def _require_purpose(state: dict[str, Tensor], purpose: Purpose, path: Path) -> None:
    parts = {key.split(".")[0] for key in state}
    missing = [part for part in _NEEDED[purpose] if part not in parts]
    if missing:
        raise CheckpointError(
            f"{path} is {_kind(parts)}, without {', '.join(missing)}: purpose {purpose} cannot start from it; give "
            f"{_RIGHT_FILES[purpose]}"
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
