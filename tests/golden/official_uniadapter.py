"""Puts UniAdapter into our BLIP as golden cases of RERV/UniAdapter have it, and finds its tensors by official names."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.uniadapter import AdaptedKeyValue, FusionBlock, KeyValueAdapters, SharedDown, UniAdapter
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.nn.transformer import Tower
from petl_bench.tasks.base import Task
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import Purpose
from tests.golden.helpers import Case, assert_gradient
from tests.golden.official_blip import build_blip, our_tensors

#: official names of modules in a whole model
LAYERS = "adapters.{}."
KEY_VALUES = {"text_encoder.encoder.": "text", "text_decoder.bert.encoder.": "decoder"}


class Adapted(NamedTuple):
    """A BLIP with UniAdapter in evaluation mode, in which everything gets gradients.

    Attributes:
        method: the method.
        blip: its backbone.
        native: the parameters BLIP had before, by their names then.
        added: the parameters of the adapters, by official names.
    """

    method: UniAdapter
    blip: Any
    native: dict[str, nn.Parameter]
    added: dict[str, nn.Parameter]

    def load(self, official: Mapping[str, Tensor], prefix: str = "") -> None:
        """Copies official weights in; `prefix` goes before the native names. All adapters must be there."""
        native, added = _split(official, prefix)
        assert self.added.keys() == added.keys()
        with torch.no_grad():
            for name, parameter in self.added.items():
                parameter.copy_(added[name])
            for name, tensor in our_tensors(native).items():
                self.native[name].copy_(tensor)

    def assert_gradients(self, case: Case, prefix: str = "") -> None:
        """All gradients of parameters that the case has, and none where it says so."""
        official = {name: tensor for name, tensor in case.group("grad").items() if not name.startswith("in.")}
        native, added = _split(official, prefix)
        assert added
        for name, gradient in our_tensors(native).items():
            assert_gradient(self.native[name].grad, gradient, name)
        for name, gradient in added.items():
            ours = self.added[name].grad
            if "video_key_adapter" in name and name.endswith(".bias"):
                # What is added to all keys alike changes no softmax: round-off, comparable beside the values' only.
                beside = name.replace("video_key_adapter", "video_value_adapter")
                ours = torch.cat([present(ours, name), present(self.added[beside].grad, beside)])
                gradient = torch.cat([gradient, added[beside]])
            assert_gradient(ours, gradient, name)
        unused = {name for name, parameter in self.added.items() if parameter.grad is None}
        assert unused == self.added.keys() & set(case.json["grad_none"])


def present(gradient: Tensor | None, name: str) -> Tensor:
    assert gradient is not None, f"{name}: no gradient"
    return gradient


def _split(official: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the towers, below `prefix`, and those of adapters."""
    added = {name: tensor for name, tensor in official.items() if "adapter" in name}
    native = {name: tensor for name, tensor in official.items() if name not in added}
    return {prefix + name: tensor for name, tensor in native.items() if not name.endswith("position_ids")}, added


def build_uniadapter(case: Case, folder: Path, purpose: Purpose, task: Task | None = None) -> Adapted:
    """The whole model of a case, weights loaded."""
    plain = copy.copy(case)
    plain.tensors = {name: tensor for name, tensor in case.tensors.items() if "adapter" not in name}
    adapted = adapt(build_blip(plain, folder, purpose), case, task=task)
    with torch.no_grad():
        for name, parameter in adapted.added.items():
            parameter.copy_(case.tensors[f"param.{name}"])
    return adapted


def adapt(
    blip: BLIP | BLIPVQA,
    case: Case,
    layers: str = LAYERS,
    key_values: Mapping[str, str] = KEY_VALUES,
    task: Task | None = None,
) -> Adapted:
    """UniAdapter as the case configures it.

    Args:
        blip: gets the adapters.
        case: has `adapter_config`, or plain released adapters.
        layers: official name of the adapters of one layer.
        key_values: official names of what holds the adapters of keys and values, and our tower.
        task: of the method.
    """
    native = dict(blip.named_parameters())
    method = UniAdapter(backbone=blip, task=task or Retrieval(), **options(case))
    method.adapt().eval().requires_grad_(True)
    added: dict[str, nn.Parameter] = {}
    towers = blip.towers
    for index, (vision, text) in enumerate(zip(towers["vision"].blocks, towers["text"].blocks, strict=True)):
        assert isinstance(text, FusionBlock)
        modules = shared_modules(text.adapter.shared) | {
            "up_proj": text.adapter.up,
            "visual_up_proj": vision.get_submodule("adapter.up"),
            "multi_up_proj": text.cross_modal.up,
            "adapter_layer_norm_cross_modal": text.cross_modal.norm,
        }
        added |= by_official_names(layers.format(index), modules)
    if method.kv_lora_dim is not None:
        for place, kind in key_values.items():
            if kind in towers:
                adapters = key_value_adapters(towers[kind])
                for name, bottleneck in (("key", adapters.key), ("value", adapters.value)):
                    modules = {"down_proj": bottleneck.down, "up_proj": bottleneck.up, "scale": bottleneck.scale}
                    added |= by_official_names(f"{place}video_{name}_adapter.", modules)
    return Adapted(method, blip, native, added)


def options(case: Case) -> dict[str, Any]:
    """Arguments of our method. The bottleneck's width has different names in the released scripts."""
    ranks = {name.split(".")[-3]: len(t) for name, t in case.group("param").items() if "down_proj.weight" in name}
    key_value = ranks.pop("video_key_adapter", None)
    ranks.pop("video_value_adapter", None)
    config = case.json.get("adapter_config", {})
    return {
        "bottleneck_dim": next(iter(ranks.values())),
        "kv_lora_dim": key_value,
        "query_residual": config.get("adapter_textual", True),
        "frame_aware": "both" if config.get("frame_aware_attention", False) else "none",
    }


def shared_modules(shared: SharedDown) -> dict[str, Any]:
    """By official names; the official norm is one module, before or after the projections."""
    norm = shared.norm_in if isinstance(shared.norm_in, nn.LayerNorm) else shared.norm_out
    return {"adapter_layer_norm_before": norm, "down_proj": shared.down, "scale": shared.scale}


def by_official_names(prefix: str, modules: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    """The parameters of modules below `prefix`; what is a fixed number is left out."""
    found: dict[str, nn.Parameter] = {}
    for name, module in modules.items():
        if isinstance(module, nn.Parameter):
            found[prefix + name] = module
        elif isinstance(module, nn.Module):
            found |= {f"{prefix}{name}.{own}": parameter for own, parameter in module.named_parameters()}
    return found


def key_value_adapters(tower: Tower) -> KeyValueAdapters:
    """The pair that all blocks of a tower share."""
    (adapters,) = {layer.adapters for layer in tower.modules() if isinstance(layer, AdaptedKeyValue)}
    return adapters
