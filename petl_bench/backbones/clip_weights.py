"""Finds, verifies and loads CLIP weights into an open_clip model."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from difflib import get_close_matches
from math import isqrt
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from petl_bench.backbones.weights import reading, require_match
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.results import file_sha256

_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)


@dataclass(frozen=True)
class Weights:
    """Where weights come from and what is known of them.

    Attributes:
        source: tag or path as the user gave it.
        file: the local file.
        quick_gelu: which activation they were trained with; None where the file cannot tell.
        preprocess: mean, std and the like, where the source states them.
    """

    source: str
    file: Path
    quick_gelu: bool | None
    preprocess: dict[str, Any]


def find_weights(architecture: str, pretrained: str) -> Weights:
    """Resolves `pretrained` (a tag, a file or a folder) to a local file, downloading a tag if needed.

    Raises:
        UsageError: if it is none of these, or a URL.
        CheckpointError: if a tag cannot be downloaded or a folder has no weights.
    """
    if "://" in pretrained:
        raise UsageError(f"pretrained '{pretrained}' is a URL: download it, check it, and give the file")
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return _in_folder(path, pretrained)
    if path.is_file():
        return Weights(pretrained, path, _activation_of_file(path), {})
    return _tagged(architecture, pretrained)


def load_weights(model: Any, architecture: str, quick_gelu: bool, weights: Weights) -> dict[str, str | None]:
    """Loads weights into an open_clip model, strictly.

    Returns:
        Provenance for the run record: source, file, sha256, activation.

    Raises:
        UsageError: if the weights were trained with another activation than the architecture has
            (open_clip#771: it cost two papers their numbers).
        CheckpointError: if the file cannot be read, is damaged or does not fit.
    """
    if weights.quick_gelu is not None and weights.quick_gelu != quick_gelu:
        raise UsageError(_activation_mismatch(architecture, weights))
    state = _read(weights.file)
    _load(model, state, weights.file)
    activation = "quick_gelu" if quick_gelu else "gelu"
    return {
        "source": weights.source,
        "file": weights.file.name,
        "sha256": file_sha256(weights.file),
        "activation": activation + ("" if weights.quick_gelu is not None else " (not stated by the weights)"),
    }


def _activation_mismatch(architecture: str, weights: Weights) -> str:
    trained, other = ("QuickGELU", "GELU") if weights.quick_gelu else ("GELU", "QuickGELU")
    base = architecture.removesuffix("-quickgelu")
    right = f"{base}-quickgelu" if weights.quick_gelu else base
    return (
        f"weights '{weights.source}' were trained with {trained}, but architecture '{architecture}' has {other}: "
        f"use backbone.architecture '{right}'"
    )


def _tagged(architecture: str, tag: str) -> Weights:
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    config = get_pretrained_cfg(architecture, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        close = get_close_matches(tag, tags, 3) or tags[:8]
        hint = f"tags of {architecture}: {', '.join(close)}" if tags else f"{architecture} has no tags"
        raise UsageError(f"pretrained '{tag}' is no file, folder or open_clip tag; {hint}; null gives random weights")
    try:
        file = Path(download_pretrained(config))
    except Exception as error:  # whatever the network, the hub client or the disk raises: one line for the user
        raise CheckpointError(
            f"weights '{tag}' of {architecture} are not in the local cache and could not be downloaded "
            f"({type(error).__name__}): give a local file as backbone.pretrained"
        ) from error
    preprocess = {key: config[key] for key in ("mean", "std", "resize_mode") if key in config}
    return Weights(tag, file, bool(config.get("quick_gelu", False)), preprocess)


def _in_folder(folder: Path, source: str) -> Weights:
    file = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} has no weights: expected one of {', '.join(_WEIGHT_FILES)}")
    config = folder / "open_clip_config.json"
    if config.is_file():
        quick_gelu = bool(_json(config, "model_cfg").get("quick_gelu", False))
        return Weights(source, file, quick_gelu, _json(config, "preprocess_cfg"))
    # transformers may leave out what equals its default, which is OpenAI's
    activation = _json(folder / "config.json", "vision_config").get("hidden_act", "quick_gelu")
    preprocess = _json(folder / "preprocessor_config.json")
    stated = {"mean": preprocess.get("image_mean"), "std": preprocess.get("image_std")}
    return Weights(source, file, activation == "quick_gelu", {k: v for k, v in stated.items() if v})


def _json(path: Path, *section: str) -> dict[str, Any]:
    """A JSON file, or a section of it, as a mapping; empty where file or section are absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    for key in section:
        value = value.get(key, {}) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {'.'.join(section) or 'the file'} is no mapping; damaged, or of another kind")
    return value


def _activation_of_file(path: Path) -> bool | None:
    if _is_torchscript(path) or file_sha256(path) in _openai_hashes():
        return True
    return None


def _openai_hashes() -> set[str]:
    """SHA-256 of OpenAI's files; their addresses contain it."""
    import open_clip
    from open_clip.pretrained import get_pretrained_url

    urls = [get_pretrained_url(name, "openai") for name in open_clip.list_pretrained_models_by_tag("openai")]
    return {url.split("/")[-2] for url in urls if url}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict of a weight file; never executes what a pickle asks for."""
    from open_clip.factory import load_state_dict

    with reading(path):
        if _is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
            state = {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}
        else:
            state = cast(dict[str, Tensor], load_state_dict(str(path), device="cpu", weights_only=True))
        state = {key: value.float() for key, value in state.items()}
    if "text_model.final_layer_norm.weight" not in state:
        return state
    try:
        return from_transformers(state)
    except KeyError as error:
        raise CheckpointError(f"{path} is no whole CLIPModel of transformers: it lacks {error}") from error


def _load(model: Any, state: dict[str, Tensor], path: Path) -> None:
    from open_clip.model import resize_pos_embed

    own = model.state_dict()
    require_match(state, own, path, _fits)
    resize_pos_embed(state, model)
    state["logit_scale"] = state["logit_scale"].reshape(own["logit_scale"].shape)
    model.load_state_dict(state)


def _fits(key: str, given: torch.Size, own: torch.Size) -> bool:
    """Equal shapes, but for what is adapted on loading: positions on another square grid, a scale in a list."""
    if key == "visual.positional_embedding":
        return len(given) == 2 and given[1] == own[1] and given[0] > 1 and isqrt(given[0] - 1) ** 2 == given[0] - 1
    if key == "logit_scale":
        return given.numel() == own.numel()
    return given == own


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a transformers `CLIPModel` to open_clip's names."""
    out: dict[str, Tensor] = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
    }
    norms = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",  # sic
        "visual.ln_post": "vision_model.post_layernorm",
    }
    layer = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for ours, theirs in (("", "text_model"), ("visual.", "vision_model")):
        depth = 1 + max(int(key.split(".")[3]) for key in state if key.startswith(f"{theirs}.encoder.layers."))
        for i in range(depth):
            block, native = f"{ours}transformer.resblocks.{i}", f"{theirs}.encoder.layers.{i}"
            norms |= {f"{block}.{a}": f"{native}.{b}" for a, b in layer.items()}
            norms[f"{block}.attn.out_proj"] = f"{native}.self_attn.out_proj"
            for part in ("weight", "bias"):
                qkv = [state[f"{native}.self_attn.{p}_proj.{part}"] for p in "qkv"]
                out[f"{block}.attn.in_proj_{part}"] = torch.cat(qkv)
    for a, b in norms.items():
        out |= {f"{a}.{part}": state[f"{b}.{part}"] for part in ("weight", "bias")}
    return out
