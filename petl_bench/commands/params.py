"""`petl-bench params`: what a configuration trains, by component.

Nothing need be there: parameters have shapes and no memory, weights and dataset are not read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import nn

from petl_bench.commands.inspection import inspect, parser_of
from petl_bench.data.base import VideoTextDataModule
from petl_bench.formats import number
from petl_bench.machine.output import print_table
from petl_bench.method import Method


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs the command.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    parser = parser_of("params", "Prints trainable parameters by component. Weights are random and no dataset is read.")
    return inspect(params, parser, arguments, plugins, device="meta")


def params(method: Method, data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Prints trainable parameters of an adapted method by component."""
    found = components(method)
    counts = method.parameter_counts()
    sizes = {
        "trainable": counts["trainable"],
        "total": counts["total"],
        "pretrained": sum(p.numel() for p in method.pretrained_parameters()),
    }
    if options.json:
        record = {"method": method.label, "backbone": method.backbone.name, **sizes}
        print(json.dumps(record | {"components": [asdict(component) for component in found]}, indent=2))
        return 0
    rows = [(c.part, f"{'unfrozen ' * c.pretrained}{c.name}", *_share(c.parameters, sizes["total"])) for c in found]
    rows.append(("all", "", *_share(sizes["trainable"], sizes["total"])))
    print_table(f"{method.label} on {method.backbone.name}", ("part", "component", "million", "%"), rows, left=2)
    share = number(100 * sizes["trainable"] / sizes["pretrained"], 3)
    print(
        f"{sizes['trainable']:,} of {sizes['total']:,} parameters are trained; that is {share} % of the "
        f"{sizes['pretrained']:,} of the backbone"
    )
    return 0


@dataclass(frozen=True)
class Component:
    """Trainable parameters of one kind.

    Attributes:
        part: the tower they are in (several joined by `+`), `task`, or `other`.
        name: class of the module that the method added, or the unfrozen parameter within the backbone's module.
        pretrained: they are unfrozen parameters of the backbone.
        tensors: how many.
        parameters: their elements.
    """

    part: str
    name: str
    pretrained: bool
    tensors: int
    parameters: int


def components(method: Method) -> list[Component]:
    """What an adapted method trains, by part and kind of module; a shared parameter counts once."""
    parts = {kind: {id(p) for p in tower.parameters()} for kind, tower in method.backbone.towers.items()}
    parts["task"] = {id(p) for p in method.task.parameters()}
    frozen = {id(p) for p in method.pretrained_parameters()}
    found: dict[tuple[str, str, bool], list[int]] = {}
    for name, parameter, pretrained, _ in method.trainable_parameters():
        part = "+".join(kind for kind, ids in parts.items() if id(parameter) in ids) or "other"
        kind = _pretrained_name(method, name) if pretrained else _added_name(method, name, frozen)
        found.setdefault((part, kind, pretrained), []).append(parameter.numel())
    return [Component(*key, tensors=len(sizes), parameters=sum(sizes)) for key, sizes in found.items()]


def _added_name(method: Method, name: str, pretrained: set[int]) -> str:
    """Class of the outermost module around a parameter that holds nothing pretrained."""
    for _, module in _owners(method, name):
        if not any(id(p) in pretrained for p in module.parameters()):
            return type(module).__name__
    return _pretrained_name(method, name)  # held directly by a module that wraps a pretrained one


def _pretrained_name(method: Method, name: str) -> str:
    """A parameter seen from the innermost class around it that is not one of torch's own."""
    depth, module = _owners(method, name)[-1]
    return ".".join([type(module).__name__, *name.split(".")[depth:]])


def _owners(method: Method, name: str) -> list[tuple[int, nn.Module]]:
    """Depth and module of every class around a parameter, outermost first, without torch's layers and lists."""
    path = name.split(".")
    modules = [(depth, method.get_submodule(".".join(path[:depth]))) for depth in range(len(path))]
    return [(depth, module) for depth, module in modules if not type(module).__module__.startswith("torch.")]


def _share(parameters: int, total: int) -> tuple[str, str]:
    return number(parameters / 1e6, 3), number(100 * parameters / total, 3)
