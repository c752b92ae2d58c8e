"""Values in nested mappings by dotted keys."""

from __future__ import annotations

from typing import Any


def has(block: dict[str, Any], key: str) -> bool:
    """Whether there is something at a dotted key below a block."""
    value: Any = block
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def get(block: Any, key: str) -> Any:
    """What is at a dotted key below a block; None if nothing is."""
    for name in key.split("."):
        block = block.get(name) if isinstance(block, dict) else None
    return block


def put(block: dict[str, Any], key: str, value: Any) -> None:
    """Puts a value at a dotted key below a block."""
    *parents, name = key.split(".")
    for parent in parents:
        block = block.setdefault(parent, {})
    block[name] = value
