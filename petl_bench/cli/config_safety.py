"""Reads configurations, and refuses class paths from outside before anything imports them.

A `class_path` imports its module even when the class is then rejected (specs/reliability.md 2.5), so a configuration
is code. Only our packages, torch, Lightning and what the user names with `--plugins` may be named. Files that a
configuration includes are put in their places here: whoever parses the result opens no file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from petl_bench.cli.named_configs import SUFFIXES, find_fragment, is_file, read_text
from petl_bench.errors import UsageError
from petl_bench.storage.plain_yaml import nodes_and_value, parse_yaml
from petl_bench.storage.untrusted import shown

OURS = ("petl_bench", "methods", "datamodules")
ALLOWED = (*OURS, "torch", "pytorch_lightning", "lightning_fabric")

#: keys that take a group of options, a class or several: what a file may hold in their place
_FRAGMENT_KEYS = frozenset(
    {
        *("trainer", "model", "data", "backbone", "task", "optimizer"),
        *("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator"),
    }
)
#: of these, the groups: nothing but a mapping will do
_GROUPS = ("trainer",)
_ONE_LINE = 10**9
_FILE_SUFFIXES = ("csv", "tsv", "json", "jsonl", "txt", "pkl", "yaml", "yml", "pt", "bin", "safetensors", "ckpt")


class ClassPathGuard:
    """Checks the class paths of arguments and configuration files.

    Args:
        plugins: packages the user allowed.
        packages: that are allowed in any case.
    """

    def __init__(self, plugins: Sequence[str] = (), packages: Sequence[str] = ALLOWED) -> None:
        self.plugins = tuple(plugins)
        self.allowed = (*packages, *plugins)
        #: what was read, by file
        self.files: dict[Path, Any] = {}

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
        node = self._compose(path, "", ())
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"configuration {path} is empty or no mapping of keys to values")
        return yaml.serialize(node, Dumper=yaml.SafeDumper)

    def with_fragments(self, arguments: Sequence[str]) -> list[str]:
        """Arguments with the content of the files that they name for a group of options or a class.

        Raises:
            UsageError: as `read` does.
        """
        out = list(arguments)
        for place, (option, equals, value) in enumerate(argument.partition("=") for argument in arguments):
            at = place if equals else place + 1
            if not option.startswith("--") or at >= len(arguments):
                continue
            value = value if equals else arguments[at]
            *parents, key = option.removeprefix("--").removesuffix("+").split(".")
            if key not in _FRAGMENT_KEYS or "data" in parents:
                continue
            if value.endswith(SUFFIXES):
                text = self._in_one_line(_fragment(value, Path(), option.removeprefix("--")), key)
                out[at] = f"{option}={text}" if equals else text
            elif key in _GROUPS and not isinstance(parse_yaml(value, option), dict):
                raise _no_group(option, value)
        return out

    def _in_one_line(self, path: Path, key: str) -> str:
        node = self._compose(path, key, ())
        for part in _collections(node):
            part.flow_style = True
        return yaml.serialize(node, Dumper=yaml.SafeDumper, width=_ONE_LINE).strip()

    def _compose(self, path: Path, key: str, above: tuple[Path, ...]) -> yaml.CollectionNode:
        """The nodes of a file, with those of the files that it includes.

        Args:
            path: the file.
            key: the key that it is the value of; empty for a whole configuration.
            above: the files that include it.
        """
        if path.resolve() in above:
            raise UsageError(f"configuration {path} includes itself, by way of {above[-1]}")
        node, value = nodes_and_value(read_text(path), str(path))
        if not isinstance(node, yaml.CollectionNode) or not isinstance(value, dict | list):
            raise UsageError(f"configuration {path} is empty or no mapping of keys to values")
        self.check(value, str(path))
        self.files[path] = value
        if key != "data":
            self._include(node, path, (*above, path.resolve()))
        return node

    def _include(self, node: yaml.Node, path: Path, above: tuple[Path, ...]) -> None:
        """Puts files in the place of their names, in what a file holds."""
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._include(item, path, above)
        if not isinstance(node, yaml.MappingNode):
            return
        for place, (key, value) in enumerate(node.value):
            if key.value in _FRAGMENT_KEYS:
                node.value[place] = (key, self._included(value, key.value, path, above))
            elif key.value == "architecture" and isinstance(value, yaml.ScalarNode):
                beside = path.parent / value.value
                if is_file(beside):  # then it belongs to the configuration
                    value.value = str(beside.resolve())
            else:
                self._include(value, path, above)

    def _included(self, value: yaml.Node, key: str, path: Path, above: tuple[Path, ...]) -> yaml.Node:
        """What stands for the value of a key that may include a file."""
        if isinstance(value, yaml.ScalarNode) and value.value.endswith(SUFFIXES):
            return self._compose(_fragment(value.value, path.parent, f"{path}: {key}"), key, above)
        if isinstance(value, yaml.ScalarNode) and key in _GROUPS:
            raise _no_group(f"{path}: {key}", value.value)
        if isinstance(value, yaml.SequenceNode):
            value.value = [self._included(item, key, path, above) for item in value.value]
        elif key != "data":  # whose options name files of data
            self._include(value, path, above)
        return value

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
        if not any(f"{class_path}.".startswith(f"{package}.") for package in self.allowed):
            package = class_path.split(".")[0]
            advice = f"; if you trust its code, add --plugins {package}" if package.isidentifier() else ""
            raise UsageError(f"{where}: class path {shown(class_path, 200)} is from outside{advice}")


def _fragment(name: str, folder: Path, where: str) -> Path:
    """The file that is included by a name, see `find_fragment`; `where` begins the message if there is none."""
    try:
        return find_fragment(name, folder)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _no_group(where: str, value: str) -> UsageError:
    return UsageError(
        f"{where} {shown(value)} is no group of options: give a file ({', '.join(SUFFIXES)}) or the options"
    )


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
