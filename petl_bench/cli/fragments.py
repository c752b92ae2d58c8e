"""Puts the files that a configuration includes in their places, and what the configuration says itself on top.

A key that takes a group of options or a class takes a file, or a file and what differs from it:

    data: data/msvd.yaml
    model:
      base: model/clip_vit_b16/lora.yaml
      init_args: {rank: 4, optimizer: optimizer/mine.yaml}

Mappings are merged key by key. A file, a list, a number, null or another class takes the place of what was there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from petl_bench.cli.named_configs import SUFFIXES, find_fragment, is_file, read_text
from petl_bench.errors import UsageError
from petl_bench.renamed import as_written_today, message
from petl_bench.storage.plain_yaml import nodes_and_value, value_of
from petl_bench.storage.untrusted import shown

#: keys that take a group of options, a class or several: what a file may hold in their place
FRAGMENT_KEYS = frozenset(
    {
        *("trainer", "model", "data", "backbone", "task", "optimizer"),
        *("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator"),
    }
)
#: of these, the groups: nothing but a mapping will do
GROUPS = ("trainer",)
#: names the file that a mapping says only the differences to
_BASE = "base"


class _Included(yaml.MappingNode):
    """What a file holds: as a difference it takes the place of the whole."""


class Fragments:
    """Reads configurations with the files that they include; class paths of earlier versions are read as today's.

    Args:
        check: looks at what each file holds, before anything that it includes is opened.
    """

    def __init__(self, check: Callable[[Any, str], None]) -> None:
        self._check = check
        #: what was read, by file
        self.files: dict[Path, Any] = {}
        #: one message for each file of an earlier version
        self.translations: list[str] = []

    def compose(self, path: Path, key: str = "", above: tuple[Path, ...] = ()) -> yaml.CollectionNode:
        """The nodes of a file, with those of the files that it includes.

        Args:
            path: the file.
            key: the key that it is the value of; empty for a whole configuration.
            above: the files that include it.

        Raises:
            UsageError: naming the file, for one that is missing, includes itself or holds no mapping or list.
        """
        if path.resolve() in above:
            raise UsageError(f"configuration {path} includes itself, by way of {above[-1]}")
        node, value = nodes_and_value(read_text(path), str(path))
        if not isinstance(node, yaml.CollectionNode) or not isinstance(value, dict | list):
            raise UsageError(f"configuration {path} is empty or no mapping of keys to values")
        value, changes = as_written_today(value)
        if changes:
            node = yaml.compose(yaml.safe_dump(value, sort_keys=False), yaml.SafeLoader)
            self.translations.append(message(path, changes))
        assert isinstance(node, yaml.CollectionNode)
        self._check(value, str(path))
        self.files[path] = value
        above = (*above, path.resolve())
        if key != "data":  # whose options name files of data
            self._include(node, path, above)
        if not isinstance(node, yaml.MappingNode):
            return node
        whole = self._on_base(node, key, path, above)
        return _Included(whole.tag, whole.value, whole.start_mark, whole.end_mark, whole.flow_style)

    def _include(self, node: yaml.Node, path: Path, above: tuple[Path, ...]) -> None:
        """Puts files in the place of their names, in what a file holds."""
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._include(item, path, above)
        if not isinstance(node, yaml.MappingNode):
            return
        for place, (key, value) in enumerate(node.value):
            if key.value in FRAGMENT_KEYS:
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
            return self.compose(fragment(value.value, path.parent, f"{path}: {key}"), key, above)
        if isinstance(value, yaml.ScalarNode) and key in GROUPS:
            raise no_group(f"{path}: {key}", value.value)
        if isinstance(value, yaml.SequenceNode):
            value.value = [self._included(item, key, path, above) for item in value.value]
        elif key != "data":
            self._include(value, path, above)
        return self._on_base(value, key, path, above) if isinstance(value, yaml.MappingNode) else value

    def _on_base(self, node: yaml.MappingNode, key: str, path: Path, above: tuple[Path, ...]) -> yaml.MappingNode:
        """A mapping on top of the file that it calls its base, if it does."""
        named = next((value for name, value in node.value if name.value == _BASE), None)
        if named is None:
            return node
        where = f"{path}: {_BASE}" + (f" of {key}" if key else "")
        if not (isinstance(named, yaml.ScalarNode) and named.value.endswith(SUFFIXES)):
            raise UsageError(f"{where} is no file: give the name of one ({', '.join(SUFFIXES)})")
        base = self.compose(fragment(named.value, path.parent, where), key, above)
        if not isinstance(base, yaml.MappingNode):
            raise UsageError(f"{where}: {named.value} holds a list, which nothing can be put on top of")
        own = [(name, value) for name, value in node.value if value is not named]
        return _merged(base, own)


def composed(path: Path) -> Any:
    """The value of a configuration or a fragment, with what it includes; nobody has looked at its class paths."""
    node = Fragments(lambda value, where: None).compose(path)
    return value_of(node, str(path))


def fragment(name: str, folder: Path, where: str) -> Path:
    """The file that is included by a name, see `find_fragment`; `where` begins the message if there is none."""
    try:
        return find_fragment(name, folder)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def no_group(where: str, value: str) -> UsageError:
    """What to say of a text in the place of a group of options."""
    return UsageError(
        f"{where} {shown(value)} is no group of options: give a file ({', '.join(SUFFIXES)}) or the options"
    )


def _merged(base: yaml.MappingNode, own: list[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    """A mapping with other values of some keys, and with more keys."""
    values = {key.value: (key, value) for key, value in base.value}
    for key, value in own:
        below = values[key.value][1] if key.value in values else None
        if isinstance(below, yaml.MappingNode) and isinstance(value, yaml.MappingNode) and _adds_to(below, value):
            value = _merged(below, value.value)
        values[key.value] = (key, value)
    pairs = sorted(values.values(), key=lambda pair: pair[0].value != "class_path")  # which a reader looks for first
    return yaml.MappingNode(base.tag, pairs, base.start_mark, base.end_mark)


def _adds_to(below: yaml.MappingNode, own: yaml.MappingNode) -> bool:
    """Whether a mapping says differences, and not something else."""
    if isinstance(own, _Included):
        return False
    classes = {_class_path(below), _class_path(own)} - {None}
    return len(classes) < 2


def _class_path(node: yaml.MappingNode) -> str | None:
    return next((value.value for key, value in node.value if key.value == "class_path"), None)
