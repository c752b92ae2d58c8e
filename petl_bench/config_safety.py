"""Refuses class paths from outside before anything imports them.

A `class_path` imports its module even when the class is then rejected (specs/reliability.md 2.5), so a configuration
is code. Only our packages, torch, Lightning and what the user names with `--plugins` may be named.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from petl_bench.errors import UsageError
from petl_bench.named_configs import find_fragment

ALLOWED = ("petl_bench", "methods", "datamodules", "torch", "pytorch_lightning", "lightning_fabric")

#: keys whose files are data that no class is read from, and may be large
_DATA_KEYS = ("answer_list",)
_FILE_SUFFIXES = ("csv", "json", "jsonl", "txt", "yaml", "yml", "pt", "bin", "safetensors", "ckpt")


class ClassPathGuard:
    """Checks the class paths of arguments and configuration files.

    Args:
        plugins: packages the user allowed.
    """

    def __init__(self, plugins: Sequence[str] = ()) -> None:
        self.plugins = tuple(plugins)
        self.allowed = (*ALLOWED, *plugins)

    def check_arguments(self, arguments: Sequence[str]) -> None:
        """Refuses class paths in command-line values: `--model a.b.C`, `--model.class_path=a.b.C`.

        Raises:
            UsageError: naming the argument.
        """
        for argument, value in _options(arguments):
            key = argument.rsplit(".", 1)[-1]
            if value.lstrip().startswith(("{", "[")):
                self._check_value(_parse(value, argument), argument)
            elif key in ("class_path", "--model", "--data") or argument.endswith(("backbone", "task", "optimizer")):
                self._require_allowed(value, argument)
            else:
                self._check_value(value, argument)

    def check_file(self, path: Path) -> None:
        """Refuses class paths in a configuration file and in the files it includes.

        Raises:
            UsageError: naming the file and the class path, or for text that is no YAML mapping.
        """
        self._check_file(path.resolve(), set())

    def _check_file(self, path: Path, seen: set[Path]) -> None:
        if path in seen:
            return
        seen.add(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read configuration {path}: {error}") from error
        value = _parse(text, str(path))
        if not isinstance(value, dict):
            raise UsageError(f"configuration {path} is empty or no mapping of keys to values")
        self._check_value(value, str(path))
        for name in _strings(value):
            included = find_fragment(name, path.parent)
            if included is not None:
                self._check_file(included.resolve(), seen)

    def _check_value(self, value: Any, where: str) -> None:
        for class_path in _class_paths(value):
            self._require_allowed(class_path, where)
        for text in _strings(value):
            if _would_import(text):
                self._require_allowed(text, where)

    def _require_allowed(self, class_path: Any, where: str) -> None:
        if not isinstance(class_path, str) or "." not in class_path:
            return
        if class_path.endswith((".yaml", ".yml")) and not _would_import(class_path):
            return
        if not any(f"{class_path}.".startswith(f"{package}.") for package in self.allowed):
            raise UsageError(
                f"{where}: class path '{class_path}' is from outside; if you trust its code, add "
                f"--plugins {class_path.split('.')[0]}"
            )


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except Exception as error:  # numbers and dates raise their own kinds, deep nesting a recursion's
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())[:200]}") from error


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        plain = (key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")  # `<<` is no key
        keys = [self.construct_object(key) for key in plain]  # type: ignore[no-untyped-call]  # untyped
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.YAMLError(f"key '{key}' stands twice, at line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


def _would_import(text: str) -> bool:
    """True for text whose first name is a module: jsonargparse tries it as a short class path wherever it may."""
    if "." not in text or not all(part.isidentifier() for part in text.split(".")):  # also of other than Latin letters
        return False
    first, last = text.split(".", 1)[0], text.rsplit(".", 1)[-1]
    if first in (*sys.stdlib_module_names, "test") and last in _FILE_SUFFIXES:
        return False  # `test.csv`: Python has a package `test`, and importing it would do no harm
    if first in sys.modules:
        return True
    spec = find_spec(first)
    is_folder = spec is not None and spec.origin is None and text.count(".") == 1  # `runs.old` beside a folder `runs`
    return spec is not None and not is_folder


def _class_paths(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if "class_path" in value:
            yield value["class_path"]
        for item in value.values():
            yield from _class_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _class_paths(item)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _DATA_KEYS:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        name, equals, value = argument.partition("=")
        if not equals and place + 1 < len(arguments):
            value = arguments[place + 1]
        yield name, value
