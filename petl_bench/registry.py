"""Finds methods and data modules: everything in the folders `methods` and `datamodules`, and named plug-ins."""

from __future__ import annotations

import ast
import importlib
import pkgutil
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
        _import(name)


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
                summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
                entries.append(Entry(node.name, f"{folder}.{path.stem}", summary))
    return entries


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
