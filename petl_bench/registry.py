"""Finds methods and data modules: everything in the folders `methods` and `datamodules`, and named plug-ins."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from petl_bench.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
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
        UsageError: if a package is missing, broken, or shadows ours.
    """
    for folder in FOLDERS:
        package = _import(folder)
        _refuse_shadow(folder, package)
        for module in pkgutil.iter_modules(package.__path__):
            _import(f"{folder}.{module.name}")
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


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"no module '{name}': is it installed, or on PYTHONPATH?") from error
        raise UsageError(f"module '{name}' needs '{error.name}', which is not installed") from error


def _refuse_shadow(folder: str, package: ModuleType) -> None:
    found = [Path(path).resolve() for path in package.__path__]
    if ROOT / folder not in found:
        raise UsageError(
            f"package '{folder}' was found at {found}, not beside petl_bench in {ROOT}: another folder of that name "
            "comes first on the path; run from elsewhere or unset PYTHONPATH"
        )


def list_entries(folder: str) -> list[Entry]:
    """The classes of a folder, read from source without importing anything (torch alone takes two seconds)."""
    entries = []
    for path in sorted((ROOT / folder).glob("*.py")):
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
