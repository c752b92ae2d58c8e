"""Reads configurations, and refuses class paths from outside before anything imports them.

A `class_path` imports its module even when the class is then rejected, so a configuration is code. Only our packages,
torch, Lightning and plug-ins may be named: those that the user gives with `--plugins`, and those that installed
packages name themselves. Files that a configuration includes are put in their places here: whoever parses the result
opens no file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from petl_bench.cli.fragments import FRAGMENT_KEYS, GROUPS, Fragments, fragment, no_group
from petl_bench.cli.named_configs import SUFFIXES
from petl_bench.errors import UsageError
from petl_bench.registry import is_within, plugin_modules
from petl_bench.renamed import as_written_today, class_path_of_today
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import shown

OURS = ("petl_bench", "methods", "datamodules")
ALLOWED = (*OURS, "torch", "pytorch_lightning", "lightning_fabric")

_ONE_LINE = 10**9
_FILE_SUFFIXES = ("csv", "tsv", "json", "jsonl", "txt", "pkl", "yaml", "yml", "pt", "bin", "safetensors", "ckpt")


class ClassPathGuard:
    """Checks the class paths of arguments and configuration files.

    Args:
        plugins: packages the user allowed; installed plug-ins are allowed without.
        packages: that are allowed in any case.
    """

    def __init__(self, plugins: Sequence[str] = (), packages: Sequence[str] = ALLOWED) -> None:
        self.plugins = tuple(plugin_modules(plugins))
        self.allowed = (*packages, *self.plugins)
        self._fragments = Fragments(self.check)
        #: what was read, by file
        self.files = self._fragments.files
        #: what to tell of files and arguments of an earlier version
        self.translations = self._fragments.translations

    def check_arguments(self, arguments: Sequence[str]) -> None:
        """Refuses class paths in command-line values: `--model a.b.C`, `--model.class_path=a.b.C`.

        Raises:
            UsageError: naming the argument.
        """
        for argument, value in _options(arguments):
            key = argument.rsplit(".", 1)[-1]
            if value.lstrip().startswith(("{", "[")):
                self.check(parse_yaml(value, argument), argument)
            elif key in ("class_path", "--model", "--data") or argument.endswith(("backbone", "task", "optimizer")):
                self._require_allowed(value, argument)
            else:
                self.check(value, argument)

    def read(self, path: Path) -> str:
        """A configuration with the files that it includes in their places, as YAML.

        Only keys that take a group of options or a class include a file; any other value that looks like one stays as
        it is, whatever lies beside the configuration.

        Raises:
            UsageError: naming the file and a class path from outside, or for text that is no YAML mapping.
        """
        node = self._fragments.compose(path)
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"configuration {path} is empty or no mapping of keys to values")
        return yaml.serialize(node, Dumper=yaml.SafeDumper)

    def with_fragments(self, arguments: Sequence[str]) -> list[str]:
        """Arguments with the content of the files that they name for a group of options or a class.

        Classes of earlier versions are named as today.

        Raises:
            UsageError: as `read` does.
        """
        before = ("", *arguments)
        arguments = [self._of_today(argument, before[place]) for place, argument in enumerate(arguments)]
        out = list(arguments)
        for place, (option, equals, value) in enumerate(argument.partition("=") for argument in arguments):
            at = place if equals else place + 1
            if not option.startswith("--") or at >= len(arguments):
                continue
            value = value if equals else arguments[at]
            *parents, key = option.removeprefix("--").removesuffix("+").split(".")
            if key not in FRAGMENT_KEYS or "data" in parents:
                continue
            if value.endswith(SUFFIXES):
                text = self._in_one_line(fragment(value, Path(), option.removeprefix("--")), key)
                out[at] = f"{option}={text}" if equals else text
            elif key in GROUPS and not isinstance(parse_yaml(value, option), dict):
                raise no_group(option, value)
        return out

    def _of_today(self, argument: str, before: str) -> str:
        """An argument in which classes of earlier versions are named, and given arguments, as today.

        Args:
            argument: `--option=value`, an option or a value.
            before: the argument that it follows, which names a value's option.
        """
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if value.lstrip().startswith(("{", "[")):
            named = before if before.startswith("--") and "=" not in before else f"argument {shown(value)}"
            found, changes = as_written_today(parse_yaml(value, option or named))
            today = json.dumps(found) if changes else value
        else:
            today = class_path_of_today(value)
            changes = [f"{value} is read as {today}"] if today != value else []
        self.translations += changes
        return f"{option}{equals}{today}"

    def _in_one_line(self, path: Path, key: str) -> str:
        node = self._fragments.compose(path, key)
        for part in _collections(node):
            part.flow_style = True
        return yaml.serialize(node, Dumper=yaml.SafeDumper, width=_ONE_LINE).strip()

    def check(self, value: Any, where: str) -> None:
        """Refuses class paths from outside in what a configuration holds.

        Raises:
            UsageError: naming one; `where` begins the message.
        """
        for class_path in _class_paths(value):
            self._require_allowed(class_path, where)
        for text in _strings(value):
            if _would_import(text):
                self._require_allowed(text, where)

    def _require_allowed(self, class_path: Any, where: str) -> None:
        if not isinstance(class_path, str) or "." not in class_path:
            return
        if class_path.endswith(SUFFIXES) and not _would_import(class_path):
            return
        if not any(is_within(class_path, package) for package in self.allowed):
            package = class_path.split(".")[0]
            advice = f"; if you trust its code, add --plugins {package}" if package.isidentifier() else ""
            raise UsageError(f"{where}: class path {shown(class_path, 200)} is from outside{advice}")


def _would_import(text: str) -> bool:
    """True for text whose first name is a module: jsonargparse tries it as a short class path wherever it may."""
    if "." not in text or not all(part.isidentifier() for part in text.split(".")):  # also of other than Latin letters
        return False
    first, last = text.split(".", 1)[0], text.rsplit(".", 1)[-1]
    if first in (*sys.stdlib_module_names, "test") and last in _FILE_SUFFIXES:
        return False  # `test.csv`: Python has a package `test`, and importing it would do no harm
    if first in sys.modules:
        return True
    try:
        spec = find_spec(first)
    except ValueError:  # of what runs, `__main__`
        return True
    is_folder = spec is not None and spec.origin is None and text.count(".") == 1  # `runs.old` beside a folder `runs`
    return spec is not None and not is_folder


def holds(value: Any, word: str) -> bool:
    """Whether a key or a text in what a configuration holds is this word, without its packages."""
    for item in _everything(value):
        words = map(str, item) if isinstance(item, dict) else (item,) if isinstance(item, str) else ()
        if any(text.rsplit(".", 1)[-1] == word for text in words):
            return True
    return False


def _class_paths(value: Any) -> Iterator[Any]:
    return (item["class_path"] for item in _everything(value) if isinstance(item, dict) and "class_path" in item)


def _strings(value: Any) -> Iterator[str]:
    return (item for item in _everything(value) if isinstance(item, str))


def _everything(value: Any) -> Iterator[Any]:
    """A value, and every value in it."""
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _everything(item)


def _collections(node: yaml.Node) -> Iterator[yaml.CollectionNode]:
    """Mappings and lists in what a file holds."""
    if not isinstance(node, yaml.CollectionNode):
        return
    yield node
    for item in node.value:
        for part in item if isinstance(item, tuple) else (item,):
            yield from _collections(part)


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        name, equals, value = argument.partition("=")
        if not equals and place + 1 < len(arguments):
            value = arguments[place + 1]
        yield name, value
