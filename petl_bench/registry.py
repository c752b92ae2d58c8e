"""Finds methods and data modules: everything in the folders `methods` and `datamodules`, and named plug-ins.

A checkout has the two folders at its root, an installation within `petl_bench`, so that it owns no other name in
site-packages. Their modules are `methods.x` and `datamodules.x` in either case, as in every configuration and adapter
file; `petl_bench.methods.x` is the same module. They are loaded from where they lie and not searched for, so that a
folder or an installed package of their name does not get in the way.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from petl_bench.errors import UsageError
from petl_bench.storage.untrusted import shown

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
FOLDERS = ("methods", "datamodules")
#: bases that mark a class as one a user can name
BASES = {
    "methods": {"Method"},
    "datamodules": {
        "VideoTextDataModule",
        "QuestionAnswerDataModule",
        "ParagraphDataModule",
        "KarpathyDataModule",
    },
}


class Entry(NamedTuple):
    """One class a configuration can name."""

    name: str
    module: str
    summary: str


def import_plugins(extra: Iterable[str] = ()) -> None:
    """Imports every module of our two folders and of the packages a user named, so that short names resolve.

    Raises:
        UsageError: if a package is missing or broken, or was imported in the place of ours.
    """
    for folder in FOLDERS:
        _import_all(folder)
    for name in extra:
        _import_plugin(name)


def _import_plugin(name: str) -> ModuleType:
    try:
        return _import(name)
    except UsageError:
        raise
    except Exception as error:  # whatever somebody else's module does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"--plugins {name}: it cannot be imported ({reason[:300]}); give the name of a module that `import` takes"
        ) from error


def make_alias(name: str) -> None:
    """Makes `petl_bench.methods` another name of the package `methods`, and of each of its modules.

    A module that is imported by two names runs twice, and its classes are not equal to themselves.
    """
    folder = name.removeprefix("petl_bench.")
    if folder != name:
        sys.modules[name] = _package(folder)
        sys.modules.update({f"petl_bench.{module.__name__}": module for module in _import_all(folder)})


def location(folder: str) -> Path:
    """Where the modules of one of our two folders are: within an installed package, or beside it in a checkout."""
    inside = PACKAGE / folder
    return inside if any(path.name != "__init__.py" for path in inside.glob("*.py")) else ROOT / folder


def _import_all(folder: str) -> list[ModuleType]:
    package = _package(folder)
    return [_import(f"{folder}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]


def _package(folder: str) -> ModuleType:
    """One of our two packages, made from its place where nobody has imported it yet."""
    if folder not in sys.modules:
        spec = ModuleSpec(folder, None, is_package=True)
        spec.submodule_search_locations = [str(location(folder))]
        sys.modules[folder] = module_from_spec(spec)
    package = sys.modules[folder]
    found = [Path(path).resolve() for path in getattr(package, "__path__", [])]
    if location(folder) not in found:
        where = found or getattr(package, "__file__", "an unknown place")
        raise UsageError(
            f"package '{folder}' was imported from {where} before petl_bench, which has its own in {location(folder)}: "
            "two packages of one name cannot be used in one process"
        )
    return package


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"--plugins: no module {shown(name)}: is it installed, or on PYTHONPATH?") from error
        raise UsageError(f"module '{name}' needs '{error.name}', which is not installed") from error


def instantiate(value: Any) -> Any:
    """What a block of a configuration (`class_path`, `init_args`) stands for; blocks in its arguments come first.

    Args:
        value: a block of known classes; anything else is given back as it is.
    """
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    for folder in FOLDERS:
        _package(folder)
    module, _, name = value["class_path"].rpartition(".")
    arguments = {key: instantiate(item) for key, item in value.get("init_args", {}).items()}
    return getattr(importlib.import_module(module), name)(**arguments)


def list_entries(folder: str) -> list[Entry]:
    """The classes of a folder, read from source without importing anything (torch alone takes two seconds)."""
    entries = []
    for path in sorted(location(folder).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and BASES[folder] & {_name(base) for base in node.bases}:
                entries.append(Entry(node.name, f"{folder}.{path.stem}", _summary(ast.get_docstring(node))))
    return entries


def plugin_entries(folder: str, plugins: Iterable[str]) -> list[Entry]:
    """The classes of a folder's kind that plug-ins define, themselves and in the modules that they import of their own.

    Raises:
        UsageError: if a plug-in is missing or broken.
    """
    entries = []
    for plugin in plugins:
        _import_plugin(plugin)
        own = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{plugin}.")]
        kinds = {kind for module in own for kind in vars(module).values() if isinstance(kind, type)}
        entries += [
            Entry(kind.__name__, kind.__module__, _summary(inspect.getdoc(kind)))
            for kind in kinds
            if f"{kind.__module__}.".startswith(f"{plugin}.") and _can_be_named(kind, folder)
        ]
    return sorted(entries)


def _can_be_named(kind: type, folder: str) -> bool:
    bases = {base.__name__ for base in kind.__mro__ if base.__module__.startswith("petl_bench.")}
    return bool(bases & BASES[folder]) and not inspect.isabstract(kind)


def _summary(docstring: str | None) -> str:
    return " ".join((docstring or "").split("\n\n")[0].split())


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
