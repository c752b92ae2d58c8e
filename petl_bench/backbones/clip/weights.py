"""Finds, verifies and loads CLIP weights into an open_clip model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl_bench.backbones.described import (
    Description,
    Facts,
    Family,
    describe,
    is_plain,
    pixels_of_open_clip,
    read_json,
    require_described,
    with_size,
)
from petl_bench.backbones.weights import (
    WeightFiles,
    is_torchscript,
    local_files,
    packaged,
    place_of,
    read_tensors,
    require_match,
)
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub import answers
from petl_bench.hub.answers import from_hub
from petl_bench.inputs import InputSpec
from petl_bench.storage.untrusted import shown

_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_TOKENIZER = "CLIP's"
_ACTIVATIONS = ("vision activation", "text activation")


@dataclass(frozen=True)
class Weights:
    """Where weights come from and what is known of them.

    Attributes:
        found: the local files.
        quick_gelu: which activation they were trained with; None where nobody says.
        described: what their tag or the configuration beside them says.
        tagged: they are of open_clip's table, which says what differs from its defaults.
    """

    found: WeightFiles
    quick_gelu: bool | None
    described: Description
    tagged: bool = False

    def assumed(self, used: InputSpec, config: Mapping[str, Any]) -> dict[str, Any]:
        """What nobody says of them, and what is taken for it: of the architecture, and of open_clip's defaults."""
        if self.tagged:
            return {}
        found = {} if self.quick_gelu is not None else {"activation": facts_of(config)["vision activation"]}
        tokenizer = {} if self.described.facts else {"tokenizer": _TOKENIZER}
        return found | self.described.pixels.assumed(used) | tokenizer


def find_weights(architecture: str, pretrained: str) -> Weights:
    """Resolves `pretrained` (a tag, a file or a folder) to local files, downloading a tag if needed.

    Raises:
        UsageError: if it is none of these, or a URL.
        CheckpointError: if a tag cannot be downloaded, a folder has no weights, or what lies beside them is damaged.
    """
    if "://" in pretrained:
        raise UsageError(f"pretrained '{pretrained}' is a URL: download it, check it, and give the file")
    found = local_files(pretrained, _WEIGHT_FILES)
    if found is None:
        return _tagged(architecture, pretrained)
    described = _described(found.folder)
    stated = {described.facts[name] for name in _ACTIVATIONS if name in described.facts}
    known = {("quick_gelu",): True, ("gelu",): False}.get(tuple(stated))  # others are refused when they are compared
    return Weights(found, True if _is_openai(found) else known, described)


def require_fit(architecture: str, config: Mapping[str, Any], image_size: int | None, weights: Weights) -> None:
    """Refuses, before anything large is built or read, weights that cannot be this architecture's.

    Args:
        architecture: its name.
        config: its open_clip configuration.
        image_size: that the user chose; null takes the architecture's.
        weights: as found.

    Raises:
        UsageError: if the weights were trained with another activation than the architecture has
            (open_clip#771: it cost two papers their numbers), or are said to be of another architecture.
        CheckpointError: if a file is something else than weights.
    """
    own = facts_of(config)
    if weights.quick_gelu not in (None, bool(config.get("quick_gelu"))):
        raise UsageError(_activation_mismatch(architecture, own, weights))
    if weights.quick_gelu:  # a file of OpenAI's knows better than what lies beside it
        own = {name: value for name, value in own.items() if name not in _ACTIVATIONS}
    if image_size is not None:
        own = {name: value for name, value in own.items() if "image size" not in name}
    source = weights.found.source
    require_described(weights.described, own, source, architecture, partial(_advice, architecture, own))
    weights.found.require_weights()


def load_weights(model: Any, config: Mapping[str, Any], weights: Weights) -> dict[str, str | None]:
    """Loads weights into an open_clip model, strictly.

    Args:
        model: of open_clip.
        config: its open_clip configuration.
        weights: as found.

    Returns:
        Provenance for the run record: source, file, sha256, activation, and what says so.

    Raises:
        CheckpointError: if the file cannot be read, is damaged or does not fit.
    """
    found = weights.found
    state = read_tensors(found)
    if "text_model.final_layer_norm.weight" in state:
        try:
            state = from_transformers(state)
        except KeyError as error:
            raise CheckpointError(f"{found.shown} is no whole CLIPModel of transformers: it lacks {error}") from error
    _load(model, state, found.shown)
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return {
        "source": found.source,
        "file": found.name,
        "sha256": found.sha256,
        "activation": activation + ("" if weights.quick_gelu is not None else " (not stated by the weights)"),
        "described_by": weights.described.shown or None,
    }


def _activation_mismatch(architecture: str, own: Facts, weights: Weights) -> str:
    trained, other = ("QuickGELU", "GELU") if weights.quick_gelu else ("GELU", "QuickGELU")
    said = f" (of {weights.described.shown})" if weights.described.facts else ""
    base = architecture.removesuffix("-quickgelu")
    right = f"{base}-quickgelu" if weights.quick_gelu else base
    advice = (
        f"use backbone.architecture '{right}'"
        if right in _architectures() and right != architecture
        else _advice(architecture, own, dict.fromkeys(_ACTIVATIONS, "quick_gelu" if weights.quick_gelu else "gelu"))
    )
    return (
        f"weights '{weights.found.source}'{said} were trained with {trained}, but architecture '{architecture}' has "
        f"{other}: {advice}"
    )


def _advice(architecture: str, own: Facts, differing: Facts) -> str:
    """What to set for weights that differ in this from an architecture."""
    if all("image size" in name for name in differing):
        side = shown(next(iter(differing.values())))
        return f"set backbone.image_size {side}, or {own['image size']} to interpolate the positions on purpose"
    wanted = {**own, **differing}
    fitting = [
        name
        for name, config in _architectures().items()
        if name != architecture and all(wanted.get(key, value) == value for key, value in facts_of(config).items())
    ]
    if fitting:
        return f"use backbone.architecture {' or '.join(map(repr, fitting[:3]))}"
    if "vision activation" in differing:
        wanted_flag = str(differing["vision activation"] == "quick_gelu").lower()
        return f'give an open_clip model configuration (JSON) with "quick_gelu": {wanted_flag} as backbone.architecture'
    return "give the open_clip model configuration (JSON) of these weights as backbone.architecture"


def _architectures() -> dict[str, dict[str, Any]]:
    """open_clip's own, by name."""
    import open_clip

    return {name: open_clip.get_model_config(name) or {} for name in open_clip.list_models()}


#: how transformers describes CLIP; it leaves out what equals its defaults, which are OpenAI's
_FAMILY = Family(
    name="clip",
    whole={"projection_dim": "joint width"},
    vision={"image_size": "image size", "patch_size": "patch size", "layer_norm_eps": "vision norm epsilon"},
    text={
        "max_position_embeddings": "context length",
        "vocab_size": "vocabulary size",
        "layer_norm_eps": "text norm epsilon",
    },
    heads={"vision": 12, "text": 8},
    activation="quick_gelu",
)


def facts_of(config: Mapping[str, Any]) -> Facts:
    """What an open_clip model configuration says of an architecture, defaults included.

    Raises:
        ValueError: if a value is of another type than open_clip's.
    """
    try:
        facts = _facts_of(config)
    except (TypeError, AttributeError, ArithmeticError, KeyError) as error:
        raise ValueError(f"a value is of another type than it should be ({error})") from error
    for name, value in facts.items():
        if not is_plain(value):
            raise ValueError(f"{name} is {shown(value)}")
    return facts


def _facts_of(config: Mapping[str, Any]) -> Facts:
    vision, text = config.get("vision_cfg") or {}, config.get("text_cfg") or {}
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    side = vision.get("image_size", 224)
    facts: Facts = {
        "joint width": config.get("embed_dim"),
        "vision activation": activation,
        "text activation": activation,
        "image size": side,
        "image size of the preprocessor": side,
        "context length": text.get("context_length", 77),
        "tokenizer": text.get("hf_tokenizer_name") or _TOKENIZER,
    }
    if (text.get("act_kwargs") or {}).get("approximate"):
        facts["text activation"] = f"gelu_pytorch_{text['act_kwargs']['approximate']}"
    if vision.get("timm_model_name") or not isinstance(vision.get("layers", 12), int):
        facts["vision tower"] = vision.get("timm_model_name") or f"ResNet {list(vision['layers'])}"
    else:
        facts |= _tower("vision", vision, vision.get("width", 768) // vision.get("head_width", 64), 768)
        facts |= {"patch size": vision.get("patch_size", 16), "vision pooling": vision.get("pool_type", "tok")}
    if text.get("hf_model_name"):
        return facts | {"text tower": text["hf_model_name"]}
    facts |= _tower("text", text, text.get("heads", 8), 512)
    return facts | {
        "vocabulary size": text.get("vocab_size", 49408),
        "text pooling": text.get("pool_type", "argmax"),
        "causal text": not text.get("no_causal_mask", False),
    }


def _tower(kind: str, config: Mapping[str, Any], heads: int, width: int) -> Facts:
    width = config.get("width", width)
    return {
        f"{kind} width": width,
        f"{kind} layers": config.get("layers", 12),
        f"{kind} heads": heads,
        f"{kind} feed-forward width": int(width * config.get("mlp_ratio", 4.0)),
        f"{kind} norm epsilon": (config.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def _said(config: Mapping[str, Any]) -> Facts:
    """What an open_clip model configuration says itself; a part of one says nothing of the rest."""
    facts = facts_of(config)
    vision, text = config.get("vision_cfg") or {}, config.get("text_cfg") or {}
    unsaid = set() if "embed_dim" in config else {"joint width"}
    for kind, tower in (("vision", vision), ("text", text)):
        unsaid |= set() if "layers" in tower else {f"{kind} layers"}
        if "width" not in tower:
            unsaid |= {f"{kind} {name}" for name in ("width", "heads", "feed-forward width", "norm epsilon", "pooling")}
    unsaid |= {"image size of the preprocessor"} | (set() if "image_size" in vision else {"image size"})
    unsaid |= set() if "patch_size" in vision else {"patch size"}
    unsaid |= set() if "context_length" in text else {"context length"}
    unsaid |= set() if "width" in text else {"vocabulary size", "causal text", "tokenizer"}
    return {name: value for name, value in facts.items() if name not in unsaid}


def _described(folder: Path) -> Description:
    """What open_clip or transformers wrote beside weights."""
    path = folder / "open_clip_config.json"
    model = read_json(path, "model_cfg")
    if model is None:
        found = describe(folder, _FAMILY)
    else:
        pixels = pixels_of_open_clip(read_json(path, "preprocess_cfg") or {}, path)
        try:
            found = Description((path.name,), _said(model), pixels)
        except ValueError as error:
            raise CheckpointError(f"{path} is no open_clip model configuration: {error}") from error
    return with_size(found)


def whereabouts(architecture: str, pretrained: str) -> str:
    """Where weights are, in a few words; nothing is fetched.

    Raises:
        UsageError: if `pretrained` is no file, folder, repository or tag.
        CheckpointError: they are damaged, or neither here nor to be had.
    """
    if (found := place_of(pretrained, _WEIGHT_FILES)) is not None:
        return found
    config = _of_tag(architecture, pretrained)
    repository = config.get("hf_hub", "").rpartition("/")[0]
    if not repository:
        return f"{pretrained}: fetched from {config.get('url')} when the run begins, where it is not there yet"
    from open_clip.pretrained import download_pretrained

    try:
        return f"{pretrained}: {answers.whereabouts(partial(download_pretrained, config), repository)}"
    except CheckpointError as error:
        raise CheckpointError(f"weights '{pretrained}' of {architecture}: {error}") from error


def _tagged(architecture: str, tag: str) -> Weights:
    from open_clip.pretrained import download_pretrained

    config = _of_tag(architecture, tag)
    repository = config.get("hf_hub", "").rpartition("/")[0]
    try:
        file = Path(from_hub(partial(download_pretrained, config), repository))
    except CheckpointError as error:
        raise CheckpointError(
            f"weights '{tag}' of {architecture} are not in the local cache and could not be downloaded ({error}): give "
            "a local file as backbone.pretrained"
        ) from error
    pixels = pixels_of_open_clip({key: config[key] for key in config if key != "size"}, f"tag '{tag}'")
    return Weights(WeightFiles(tag, (file,)), bool(config.get("quick_gelu", False)), Description((), {}, pixels), True)


def _of_tag(architecture: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of a tag."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if config := get_pretrained_cfg(architecture, tag):
        return config
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    close = get_close_matches(tag, tags, 3) or tags[:8]
    hint = f"tags of {architecture}: {', '.join(close)}" if tags else f"{architecture} has no tags"
    raise UsageError(
        f"pretrained '{tag}' is no file, folder, hf-hub:owner/name or open_clip tag, and not {packaged()}; {hint}; "
        "null gives random weights"
    )


def _is_openai(found: WeightFiles) -> bool:
    """OpenAI's files, which were all trained with QuickGELU, by their kind or their digest."""
    return len(found.files) == 1 and (is_torchscript(found.files[0]) or found.sha256 in _openai_hashes())


def _openai_hashes() -> set[str]:
    """SHA-256 of OpenAI's files; their addresses contain it."""
    import open_clip
    from open_clip.pretrained import get_pretrained_url

    urls = [get_pretrained_url(name, "openai") for name in open_clip.list_pretrained_models_by_tag("openai")]
    return {url.split("/")[-2] for url in urls if url}


def _load(model: Any, state: dict[str, Tensor], shown: str) -> None:
    from open_clip.model import resize_pos_embed

    own = model.state_dict()
    require_match(state, own, shown, _fits)
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
