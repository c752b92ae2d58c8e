"""What a model is loaded from: an adapter file, the folder of a run, or a configuration."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import SUFFIXES, find_config
from petl_bench.errors import CheckpointError
from petl_bench.hub.names import hub_name
from petl_bench.runs.hub_adapters import local_adapter
from petl_bench.runs.record import ADAPTER_NAME, CONFIG_NAME
from petl_bench.storage.adapters import describes_itself
from petl_bench.storage.files import FileError, file_sha256
from petl_bench.storage.untrusted import expanded, is_file, is_folder


def adapter_of(source: str | Path) -> Path | None:
    """The adapter file that is meant, of the Hub's (`hf-hub:owner/name`) the copy in the local cache.

    None of a configuration.

    Raises:
        CheckpointError: the Hub has no such adapter, or it is damaged.
    """
    if hub_name(source) is not None:
        return local_adapter(source)
    path = expanded(source)
    if is_folder(path):
        return path / ADAPTER_NAME
    is_configuration = not path.suffix or path.suffix in SUFFIXES
    return None if is_configuration else path


def source_sha256(source: str | Path, weights: str | Path | None) -> str:
    """What tells the model of a source from others, without making it.

    An adapter that describes its model says which weights it needs, so its own bytes are enough; one of an earlier
    version counts with the configuration beside it. Of a configuration it is what it says, with size and time of the
    files of weights. Code of plug-ins is no part of it.

    Args:
        source: as of `adapter_of`.
        weights: of the backbone, where they are elsewhere than the configuration says.

    Raises:
        CheckpointError: there is no such adapter.
        UsageError: there is no such configuration.
    """
    adapter = adapter_of(source)
    if adapter is not None:
        try:
            own = file_sha256(adapter)
            beside = adapter.with_name(CONFIG_NAME)
            return own if describes_itself(adapter) or not is_file(beside) else own + file_sha256(beside) + str(weights)
        except FileError as error:
            raise CheckpointError(f"no adapter at {adapter}: {error.reason}") from error
    model = composed(find_config(str(source)))["model"]
    said = {"model": model, "weights": None if weights is None else str(weights), "files": _stamps(model, weights)}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _stamps(model: Any, weights: str | Path | None) -> list[tuple[str, int, int]]:
    """Of the files that a configuration's texts name."""
    texts, stack = [] if weights is None else [str(weights)], [model]
    while stack:
        item = stack.pop()
        stack += [*item.values()] if isinstance(item, dict) else item if isinstance(item, list) else []
        texts += [item] if isinstance(item, str) else []
    found = {path: path.stat() for text in texts if is_file(path := expanded(text))}
    return [(str(path), status.st_size, status.st_mtime_ns) for path, status in sorted(found.items())]
