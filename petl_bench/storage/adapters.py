"""Adapter files: the tensors a method trained, once each, as safetensors with their provenance."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from petl_bench.errors import CheckpointError
from petl_bench.machine.resources import exhausted_by_parser
from petl_bench.storage.file_names import utf8_path
from petl_bench.storage.files import FileError, write_bytes_atomically
from petl_bench.storage.untrusted import UnreadableError, hidden, is_file, mistaken, parse_json, shown

FORMAT = "petl_bench.adapter/2"
_ENTRY = "petl_bench"


class Adapter(NamedTuple):
    """What an adapter file holds.

    Attributes:
        tensors: by parameter name.
        metadata: texts that say what they belong to (`Method.identity`), and `model`, which says how to make that
            again (`petl_bench.storage.descriptions`).
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Writes an adapter file atomically, with the permissions that new files have.

    Raises:
        CheckpointError: if it cannot be written; a previous version stays as it was.
    """
    try:
        write_bytes_atomically(path, adapter_bytes(adapter))
    except FileError as error:
        raise CheckpointError(str(error)) from error


def adapter_bytes(adapter: Adapter) -> bytes:
    """The content of its file; the same adapter is the same bytes."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    # One entry, as safetensors writes several in random order.
    described = json.dumps({**adapter.metadata, "format": FORMAT}, sort_keys=True)
    return save(tensors, {_ENTRY: described})


def read_adapter(path: Path) -> Adapter:
    """Reads an adapter file.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
        ResourceError: if it cannot be read for want of something that this machine lacks.
    """
    from safetensors import safe_open

    require_adapter_path(path)
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            metadata = _described(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    # Of a damaged header the library makes almost anything.
    except Exception as error:
        if lacking := exhausted_by_parser(error, path):
            raise lacking from error
        reason = mistaken(path) or " ".join(str(error).split())[:200] or type(error).__name__
        size = f"{path.stat().st_size} bytes" if is_file(path) else "gone"
        raise CheckpointError(f"{path} ({size}) is not a whole safetensors file: {reason}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a petl_bench adapter (format {shown(metadata.get('format'))})")
    return Adapter(tensors, metadata)


def require_adapter_path(path: Path) -> None:
    """Refuses what cannot be an adapter file, without a look inside.

    Raises:
        CheckpointError: if it is missing, a folder, or a checkpoint of training.
    """
    with suppress(OSError, ValueError):  # where nobody may look, and for what is no name of a file
        if path.is_dir():
            raise CheckpointError(f"no adapter file at {path}, which is a folder: give {path / 'adapter.safetensors'}")
    if not is_file(path):
        raise CheckpointError(f"no adapter file at {path}{f', which {told}' if (told := hidden(path)) else ''}")
    if path.suffix == ".ckpt":
        raise CheckpointError(f"{path} is a checkpoint of training; the adapter is adapter.safetensors beside it")


def is_adapter_file(path: Path) -> bool:
    """True for a readable file that declares itself a petl_bench adapter."""
    from safetensors import safe_open

    if path.suffix != ".safetensors" or not is_file(path):
        return False
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            return _described(file.metadata()).get("format") == FORMAT
    except Exception:  # see read_adapter
        return False


def describes_itself(path: Path) -> bool:
    """Whether an adapter file says how its model is made (`petl_bench.storage.descriptions`); earlier ones do not."""
    from safetensors import safe_open

    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            return "model" in _described(file.metadata())
    except Exception:  # see read_adapter
        return False


def _described(metadata: dict[str, str] | None) -> dict[str, str]:
    """What an adapter file says of itself; nothing for other files."""
    try:
        described = parse_json((metadata or {}).get(_ENTRY, "{}"))
    except UnreadableError:
        return {}
    return described if isinstance(described, dict) else {}
