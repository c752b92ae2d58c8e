"""Adapter files: the tensors a method trained, once each, as safetensors with their provenance."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from petl_bench.errors import CheckpointError
from petl_bench.file_names import utf8_path

FORMAT = "petl_bench.adapter/2"
_ENTRY = "petl_bench"


class Adapter(NamedTuple):
    """What an adapter file holds: tensors by parameter name, and text metadata (method, backbone, ...)."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Writes an adapter file atomically: temporary file in the same folder, fsync, rename."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    try:
        # One entry, as safetensors writes several in random order: the same adapter is the same file.
        described = json.dumps({**adapter.metadata, "format": FORMAT}, sort_keys=True)
        save_file(tensors, temporary, {_ENTRY: described})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_adapter(path: Path) -> Adapter:
    """Reads an adapter file.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    require_adapter_path(path)
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            metadata = _described(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise CheckpointError(f"{path} ({size} bytes) is not a whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a petl_bench adapter (format {metadata.get('format')})")
    return Adapter(tensors, metadata)


def require_adapter_path(path: Path) -> None:
    """Refuses what cannot be an adapter file, without a look inside.

    Raises:
        CheckpointError: if it is missing, a folder, or a checkpoint of training.
    """
    if path.is_dir():
        raise CheckpointError(f"no adapter file at {path}, which is a folder: give {path / 'adapter.safetensors'}")
    if not path.is_file():
        raise CheckpointError(f"no adapter file at {path}")
    if path.suffix == ".ckpt":
        raise CheckpointError(f"{path} is a checkpoint of training; the adapter is adapter.safetensors beside it")


def is_adapter_file(path: Path) -> bool:
    """True for a readable file that declares itself a petl_bench adapter."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            return _described(file.metadata()).get("format") == FORMAT
    except SafetensorError:
        return False


def _described(metadata: dict[str, str] | None) -> dict[str, str]:
    """What an adapter file says of itself; nothing for other files."""
    try:
        described = json.loads((metadata or {}).get(_ENTRY, "{}"))
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}
