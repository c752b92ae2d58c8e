"""BLIP as transformers writes it: a folder that `from_pretrained` and our `pretrained` read."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save
from torch import Tensor

from petl_bench.inputs import InputSpec

WEIGHTS_NAME, CONFIG_NAME, PIXELS_NAME = "model.safetensors", "config.json", "preprocessor_config.json"
VOCABULARY_NAME = "vocab.txt"
_BICUBIC = 3  # in PIL


def weights_file(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by transformers' names; those that are tied are written once each."""
    return save({name: tensor.detach().clone().contiguous().cpu() for name, tensor in tensors.items()})


def sized(config: Mapping[str, Any], spec: InputSpec) -> dict[str, Any]:
    """A copy of an architecture with the size of the frames."""
    config = copy.deepcopy(dict(config))
    config["vision_config"]["image_size"] = spec.image_size
    return config


def config_file(config: Mapping[str, Any]) -> bytes:
    """`config.json`, of an architecture."""
    return (json.dumps({"model_type": "blip", **config}, indent=2) + "\n").encode()


def pixels_file(spec: InputSpec) -> bytes:
    """`preprocessor_config.json`."""
    side, cropped = spec.image_size, spec.resize == "shorter_side_crop"
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    told = {
        "do_center_crop": cropped,
        **(sizes if cropped else {"size": {"height": side, "width": side}}),
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "resample": _BICUBIC,
    }
    return (json.dumps(told, indent=2) + "\n").encode()
