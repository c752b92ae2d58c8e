"""YAML of plain values: no tags, no key twice, nothing that unfolds without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from petl_bench.errors import UsageError
from petl_bench.storage.untrusted import shown

#: values in a configuration; a few lines of YAML can unfold to billions
_MAX_VALUES = 100_000


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text of plain values.

    Raises:
        UsageError: if it is no YAML, has tags or a key twice, or unfolds to too many values.
    """
    return nodes_and_value(text, where)[1]


def nodes_and_value(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """What a YAML text consists of, and its value, see `parse_yaml`."""
    with _valid(where):
        node = _UniqueKeys(text).get_single_node()
    return node, None if node is None else value_of(node, where)


def value_of(node: yaml.Node, where: str) -> Any:
    """The value of what a YAML text consists of, see `parse_yaml`."""
    with _valid(where):
        value = _UniqueKeys("").construct_document(node)
    _require_small(value, where)
    return value


@contextmanager
def _valid(where: str) -> Iterator[None]:
    """Tells in one line what is wrong with a YAML text."""
    try:
        yield
    except RecursionError as error:
        raise UsageError(f"{where} is not valid YAML: it nests too deeply") from error
    # PyYAML lets pass what `!!int x`, an impossible date or a list as a key make Python raise.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())[:200]}") from error


def _require_small(value: Any, where: str) -> None:
    """Refuses what unfolds beyond all measure, or for ever: in YAML a part can stand in many places, and in itself."""
    stack, seen = [value], 0
    while stack:
        seen += 1
        if seen > _MAX_VALUES:
            raise UsageError(
                f"{where} unfolds to more than {_MAX_VALUES} values (`&` and `*` repeat parts); refusing it"
            )
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            stack.extend(item)


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set[str]()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                continue
            if key.value in keys:
                raise yaml.YAMLError(
                    f"key {shown(key.value)} occurs twice, at line {node.start_mark.line + 1} and below"
                )
            keys.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what `<<` names in its place; of equal keys, the mapping's own is kept."""
        super().flatten_mapping(node)
        last = {(key.tag, key.value): place for place, (key, _) in enumerate(node.value) if _is_scalar(key)}
        kept = set(last.values())
        node.value = [pair for place, pair in enumerate(node.value) if place in kept or not _is_scalar(pair[0])]


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)
