"""The backbones there are: every class in the folders beside this module."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import petl_bench.backbones
from petl_bench.backbones.base import Backbone


def known_backbones() -> dict[str, type[Backbone]]:
    """The classes that can be built, by name, in the order of their modules."""
    prefix = f"{petl_bench.backbones.__name__}."
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(petl_bench.backbones.__path__, prefix)]
    kinds = [kind for module in modules for kind in vars(module).values() if _is_backbone(kind)]
    return {kind.__name__: kind for kind in kinds if kind.__module__.startswith(prefix)}


def _is_backbone(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Backbone) and not inspect.isabstract(kind)
