"""Methods, backbones and tasks, built small: for `petl-bench list matrix` and the checks of `petl_bench.testing`."""

from __future__ import annotations

import copy
import functools
import inspect
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from petl_bench.backbones.base import Backbone
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder, list_configs, plugin_configs
from petl_bench.errors import UsageError
from petl_bench.method import PARTS, Method, own_options
from petl_bench.registry import all_entries, import_plugins, instantiate
from petl_bench.tasks.base import Task


def classes_of(kind: str, plugins: Iterable[str] = ()) -> dict[str, type[Any]]:
    """The classes that a configuration can name, by name; by class path where several have one name.

    Args:
        kind: one of `petl_bench.registry.KINDS`.
        plugins: that a user named; installed ones are known without.

    Raises:
        UsageError: if a plug-in is missing or broken.
    """
    plugins = list(plugins)
    import_plugins(plugins)
    entries = all_entries(kind, plugins)
    times = Counter(entry.name for entry in entries)
    return {entry.name if times[entry.name] == 1 else entry.class_path: entry.load() for entry in entries}


def default_options(method: type[Method]) -> dict[str, Any]:
    """Options to try a method with, as a configuration holds them.

    Those of its first packaged configuration for the fixture; without one, none if all have defaults; else those of the
    first packaged configuration that names the method.

    Raises:
        UsageError: if an option has no default and no configuration gives it one.
    """
    class_path = f"{method.__module__}.{method.__qualname__}"
    leaves = [config_folder() / name for name in list_configs() if os.sep not in name]
    small = tuple(path for path in leaves if path.name.startswith("fixture_"))
    if (found := _first_options(small).get(class_path)) is not None:
        return found
    missing = required_options(method)
    if not missing:
        return {}
    own = (path for name, path in plugin_configs().items() if os.sep not in name)
    if (found := _first_options((*leaves, *own)).get(class_path)) is not None:
        return found
    raise UsageError(f"{method.__name__} has no default for {', '.join(missing)}, and no packaged configuration")


def required_options(method: type[Method]) -> list[str]:
    """The options of a method that have no default."""
    parameters = inspect.signature(method).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return sorted(required - set(PARTS))


@functools.cache
def _first_options(leaves: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    """The options of each method in the first of these configurations that names it, by class path."""
    found: dict[str, dict[str, Any]] = {}
    for path in leaves:
        model = composed(path).get("model")
        if isinstance(model, dict) and "class_path" in model:
            found.setdefault(model["class_path"], own_options(model))
    return found


def tiny_backbone(kind: type[Backbone], init_seed: int = 0) -> Backbone:
    """A tiny backbone with random weights, on torch's default device: a copy, as making one takes several times longer.

    Args:
        kind: of the backbone.
        init_seed: of the weights.
    """
    return copy.deepcopy(_tiny(kind, init_seed, torch.get_default_device()))


@functools.cache
def _tiny(kind: type[Backbone], init_seed: int, device: torch.device) -> Backbone:
    with device:
        return kind.tiny(init_seed=init_seed)


def built(method: type[Method], options: Mapping[str, Any], backbone: Backbone, task: Task) -> Method:
    """A method, not yet adapted; classes among its options are made anew."""
    made = {key: instantiate(value) for key, value in options.items()}
    return method(backbone=backbone, task=task, **made)
