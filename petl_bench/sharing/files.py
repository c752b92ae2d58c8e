"""The files of a finished run as others may have them: without folders of this machine and without captions.

Where a file is changed for that, the record has the digest of what is shared, so that reports take it as they take the
run's own.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.report.collect import Run
from petl_bench.runs.hub_adapters import SHARED
from petl_bench.runs.record import ADAPTER_NAME, CONFIG_NAME, FILE_NAME, RANKS_NAME, read_result
from petl_bench.storage.adapters import Adapter, adapter_bytes, read_adapter
from petl_bench.storage.arrays import read_arrays
from petl_bench.storage.descriptions import KEY, ModelDescription, read_description
from petl_bench.storage.files import FileError
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import UnreadableError, is_file, is_folder, read_bytes, read_text

#: arrays of `ranks.npz` that hold texts of a dataset
_TEXTS = ("words", "answers")
_INTEGRITY = {ADAPTER_NAME: "adapter_sha256", CONFIG_NAME: "config_sha256", RANKS_NAME: "ranks_sha256"}


class Shared(NamedTuple):
    """What is shared of a run.

    Attributes:
        run: it, with its record as it is on this machine.
        description: what its adapter says of its model.
        files: content by name.
        changed: by name, how that is not the run's own.
    """

    run: Run
    description: ModelDescription
    files: dict[str, bytes]
    changed: dict[str, str]


def shared_files(path: Path, words: bool) -> Shared:
    """The files of a run that others need.

    Args:
        path: folder of the run, or its record.
        words: share what captions, questions and answers say, too.

    Raises:
        UsageError: there is no run, it is not complete, or it trained nothing.
        FileError: a file is missing, or is not the one that the run wrote.
        CheckpointError: the adapter cannot be read, or does not describe its model.
    """
    run = _finished(path)
    folder, record = run.path.parent, run.record
    files = {name: _own(folder / name, record["integrity"][digest]) for name, digest in _INTEGRITY.items()}
    adapter = read_adapter(folder / ADAPTER_NAME)
    description = read_description(adapter, folder / ADAPTER_NAME)
    if description is None:
        raise CheckpointError(f"{folder / ADAPTER_NAME} is of an earlier version and does not describe its model")
    changed: dict[str, str] = {}
    portable = _portable(description)
    if portable is not description:
        metadata = {**adapter.metadata, KEY: portable.as_metadata()}
        files[ADAPTER_NAME] = adapter_bytes(Adapter(adapter.tensors, metadata))
        changed[ADAPTER_NAME] = "of the place of the backbone's weights only the name is said"
    config = parse_yaml(read_text(folder / CONFIG_NAME), str(folder / CONFIG_NAME))
    if (without := _without_places(config)) != config:
        files[CONFIG_NAME] = yaml.safe_dump(without, sort_keys=False).encode()
        changed[CONFIG_NAME] = "of places on the machine only names are said"
    if not words:
        ranks = read_arrays(folder / RANKS_NAME, record["integrity"]["ranks_sha256"])
        kept = {name: array for name, array in ranks.items() if name not in _TEXTS}
        if len(kept) < len(ranks):
            files[RANKS_NAME] = _npz(kept)
            changed[RANKS_NAME] = "what captions, questions and answers say is left out"
    files[FILE_NAME] = _record(record, files, run.path)
    return Shared(run, portable, {name: files[name] for name in SHARED}, changed)


def _finished(path: Path) -> Run:
    record = path / FILE_NAME if is_folder(path) else path
    if not is_file(record) or record.name != FILE_NAME:
        raise UsageError(f"{path} is no complete run: it has no {FILE_NAME}, which a run writes last")
    found = read_result(record)
    if found["status"] != "complete":
        raise UsageError(f"{record}: status is {found['status']!r}, not 'complete'")
    if not found["model"]["trainable_params"] or found["integrity"]["adapter_sha256"] is None:
        raise UsageError(f"{record}: nothing was trained, so there is no adapter to share")
    return Run(record, found)


def _own(path: Path, expected: str | None) -> bytes:
    try:
        content = read_bytes(path)
    except UnreadableError as error:
        raise FileError(path, f"cannot be shared: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise FileError(path, "is not the file the run wrote (SHA-256 differs): it is not shared")
    return content


def _portable(description: ModelDescription) -> ModelDescription:
    """The same without folders of this machine: weights are looked for beside the adapter."""
    weights = description.weights
    if weights.place is None:
        return description
    name = Path(weights.place).name
    if (weights.place, weights.from_here) == (name, None):
        return description
    return replace(description, weights=replace(weights, place=name, from_here=None))


def _without_places(value: Any) -> Any:
    """A configuration whose absolute paths are cut to their last names."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return Path(value).name or "." if isinstance(value, str) and value.startswith(("/", "~")) else value


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def _record(record: dict[str, Any], files: dict[str, bytes], path: Path) -> bytes:
    """The record, with the digests of what is shared."""
    digests = {key: hashlib.sha256(files[name]).hexdigest() for name, key in _INTEGRITY.items()}
    if digests == record["integrity"]:
        return read_bytes(path)
    said = {**_without_places(record), "integrity": digests}
    return (json.dumps(said, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
