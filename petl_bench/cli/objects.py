"""The configuration that a method and a data module stand for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from petl_bench.cli.overrides import plain
from petl_bench.configurable import Configurable, given_arguments
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.storage.untrusted import expanded


def configuration_of(method: Method, data: VideoTextDataModule) -> dict[str, Any]:
    """What `--config` would hold to have these objects made.

    Raises:
        UsageError: they were made of something that no configuration holds.
    """
    model, described = _described(method, "model"), _described(data, "data")
    for name in ("spec", "seed"):  # which a run links
        described["init_args"].pop(name, None)
    task = model["init_args"].get("task")
    if task and "root" in task["init_args"]:
        root = task["init_args"].pop("root")  # linked, too
        if root is not None and expanded(root) != data.root:
            raise UsageError(f"model.task.root is {root}, and data.root {data.root}: answers are read from the latter")
    return {"model": model, "data": described}


def _described(made: Any, where: str) -> dict[str, Any]:
    kind = type(made)
    if "<locals>" in kind.__qualname__:
        raise UsageError(f"{where}: {kind.__name__} is defined inside a function: no configuration can name it there")
    arguments = {name: _value(value, f"{where}.{name}") for name, value in given_arguments(made).items()}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _value(value: Any, where: str) -> Any:
    if isinstance(value, Configurable):
        return _described(value, where)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_value(item, where) for item in value]
    if isinstance(value, Mapping):
        return {name: _value(item, f"{where}.{name}") for name, item in value.items()}
    # The path of a file, as the command line would be given it.
    return str(value) if isinstance(value, PurePath) else plain(value, where)
