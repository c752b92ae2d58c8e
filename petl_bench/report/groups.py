"""Things that have something in common, together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Common = TypeVar("_Common", bound=Hashable)


def grouped(items: Iterable[_Item], by: Callable[[_Item], _Common]) -> dict[_Common, list[_Item]]:
    """Items by what they have in common, both in their order."""
    groups: dict[_Common, list[_Item]] = {}
    for item in items:
        groups.setdefault(by(item), []).append(item)
    return groups
