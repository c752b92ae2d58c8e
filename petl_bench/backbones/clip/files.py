"""CLIP as open_clip writes it: a folder that open_clip's `local-dir:` and our `pretrained` read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save
from torch import nn

from petl_bench.inputs import InputSpec

WEIGHTS_NAME, CONFIG_NAME = "open_clip_model.safetensors", "open_clip_config.json"
_MODES = {"shorter_side_crop": "shortest", "squash": "squash"}


def weights_file(model: nn.Module) -> bytes:
    """All tensors of an open_clip model."""
    return save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})


def config_file(config: Mapping[str, Any], spec: InputSpec) -> bytes:
    """`open_clip_config.json`: the architecture with the size of the frames, and how they are prepared."""
    config = {**config, "vision_cfg": {**config["vision_cfg"], "image_size": spec.image_size}}
    pixels = {"size": spec.image_size, "mean": list(spec.mean), "std": list(spec.std)}
    resized = {"interpolation": "bicubic", "resize_mode": _MODES[spec.resize]}
    return (json.dumps({"model_cfg": config, "preprocess_cfg": pixels | resized}, indent=2) + "\n").encode()
