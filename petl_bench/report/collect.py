"""Finds run records, and says of each that is left out why."""

import fnmatch
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.errors import DataError
from petl_bench.machine.resources import exhausted
from petl_bench.metrics.table import kind_of
from petl_bench.report.kept import Kept
from petl_bench.report.memo import Digests
from petl_bench.runs.record import (
    ADAPTER_NAME,
    CONFIG_NAME,
    FILE_NAME,
    TRANSFER_NAMES,
    ranks_beside,
    read_result,
    schema_sha256,
)
from petl_bench.storage.dotted import get
from petl_bench.storage.files import FileError

_FILES = {"adapter": ADAPTER_NAME, "config": CONFIG_NAME}
#: what a record must say before its figures mean anything
_NEEDED = ("protocol.split_sha256", "model.weights_sha256", "integrity.ranks_sha256", "integrity.config_sha256")

Key = tuple[tuple[str, Any], ...]

COMPARABLE = (
    "origin",
    "protocol.dataset",
    "protocol.id",
    "protocol.split_sha256",
    "protocol.metric_version",
    # which pixels and words the model is given
    "protocol.preprocess.frames",
    "protocol.preprocess.frame_rate",
    "protocol.preprocess.sampling",
    "protocol.preprocess.reader",  # of a cache: the one that filled it
    "protocol.preprocess.image_size",
    "protocol.preprocess.resize",
    "protocol.preprocess.mean",
    "protocol.preprocess.std",
    "protocol.preprocess.max_words",
    "protocol.preprocess.text_words",
    "protocol.preprocess.*",
    # whatever else changes the figures of one and the same trained model
    "protocol.inference.temperature",
    "protocol.inference.*",
    "model.weights_sha256",
    "protocol.selection",
)
"""All that decides an evaluation, by dotted name in the record: two runs share a table if it is equal.

A name that a record lacks is unknown there, and what is unknown equals nothing. `*` stands for what else a block holds.
Whatever belongs to training (epochs, augmentation, optimiser) is the recipe: shown and hashed, no ground for another
table.
"""
UNKNOWN = "unknown"
_WITHOUT = {"protocol.preprocess.jpeg_quality": None}
"""What a record that lacks a field was made with, where that is known: there was nothing else before."""
HOW_TO_GET_RUNS = "`petl-bench fit` writes into runs, `petl-bench demo` makes some in minutes and reports them"


class Run(NamedTuple):
    """A valid record and where it lies."""

    path: Path
    record: dict[str, Any]


class Rejected(NamedTuple):
    """A file that is left out of the report."""

    path: Path
    reason: str


class Collection(NamedTuple):
    """What was found, both parts sorted by path."""

    runs: list[Run]
    rejected: list[Rejected]


def collect(folders: Iterable[Path], strict: bool = False, cache: Path | None = None) -> Collection:
    """Reads every `result.json` below some folders.

    Args:
        folders: where to look, also behind links to folders; a file found by two ways counts once.
        strict: reject also runs of a checkout with uncommitted changes.
        cache: folder of the report's cache, which tells records and files that have not changed; None: nothing is kept.

    Raises:
        DataError: a folder does not exist.
    """
    runs: list[Run] = []
    rejected: list[Rejected] = []
    found, closed = _find(folders)
    rejected += closed
    valid, digests = Kept(cache, "records", schema_sha256()), Digests(cache, "files")
    for path in found:
        try:
            record = read_result(path, valid)
            reason = _objection(path, record, strict, digests)
        except FileError as error:
            rejected.append(Rejected(error.path, error.reason))
            continue
        if reason:
            rejected.append(Rejected(path, reason))
        else:
            runs.append(Run(path, record))
    if runs:
        valid.save()
        digests.save()
    return Collection(runs, sorted(rejected))


def comparability_key(record: dict[str, Any]) -> Key:
    """The fields, by dotted name, that must be equal before two runs may stand in one table."""
    fields: dict[str, Any] = {}
    for name in COMPARABLE:
        *path, last = name.split(".")
        block: dict[str, Any] = functools.reduce(dict.__getitem__, path, record)
        for key in sorted(block) if last == "*" else [last]:
            # Runs of one configuration are of one kind, whatever is unknown of it.
            unknown = f"{UNKNOWN} ({record['id']['config_hash'][:8]})"
            fields.setdefault(".".join([*path, key]), _comparable(block[key]) if key in block else unknown)
    fields["eval"] = kind_of(record["eval"])  # no table has two
    return tuple(fields.items())


def field_of(fields: Mapping[str, Any], name: str) -> Any:
    """What the fields of a key say of one that another key has."""
    return fields.get(name, _WITHOUT.get(name, UNKNOWN))


def unknown_fields(key: Key) -> list[str]:
    """What a record does not say of its evaluation."""
    return [name for name, value in key if str(value).startswith(f"{UNKNOWN} (")]


def _comparable(value: Any) -> Any:
    """Lists and blocks as text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def metrics(record: dict[str, Any]) -> dict[str, Any]:
    """The `eval` block without its costs and second figures, which differ between two runs of the same thing."""
    return {name: value for name, value in record["eval"].items() if name not in ("cost", "second_figures")}


def second_figures(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures beside the plain ones, by title: what post-processing or another measure gives."""
    return {item["title"]: item for item in record["eval"].get("second_figures", [])}


def _find(folders: Iterable[Path]) -> tuple[list[Path], list[Rejected]]:
    """Records below folders, and the folders that nobody here may look into."""
    found: dict[Path, Path] = {}
    closed: list[Rejected] = []

    def close(error: OSError) -> None:
        path = Path(str(error.filename))
        if lacking := exhausted(error, path):
            raise lacking from error
        closed.append(Rejected(path, f"the folder cannot be listed: {error.strerror}"))

    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name the one that holds the runs. {HOW_TO_GET_RUNS}")
        for place, names in walk(folder, close):
            for name in (FILE_NAME, *fnmatch.filter(names, TRANSFER_NAMES)):
                if name in names:
                    found.setdefault((path := Path(place, name)).resolve(), path)
    return sorted(found.values()), closed


def walk(folder: Path, close: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Every folder below one and the names in it, also behind links: each once, if it can be by its own name."""
    seen: set[tuple[int, int]] = set()  # links may lead in a circle
    waiting = [str(folder)]
    while waiting:
        for place, below, names in os.walk(waiting.pop(0), onerror=close):
            try:
                status = Path(place).stat()
            except OSError as error:
                close(error)
                continue
            if (status.st_dev, status.st_ino) in seen:
                below.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            waiting += sorted(str(path) for name in below if (path := Path(place, name)).is_symlink())
            yield place, [*below, *names]


def _objection(path: Path, record: dict[str, Any], strict: bool, digests: Digests) -> str | None:
    """Why a record that satisfies the schema has no place in a table; None if it has one."""
    if record["status"] != "complete":
        return f"status is {record['status']!r}, not 'complete'"
    if record["origin"] == "reported":
        return "origin is 'reported': published figures do not stand among measured ones"
    unknown = next((name for name in _NEEDED if get(record, name) is None), None)
    if unknown:
        return f"{unknown} is unknown"
    changed = _changed_file(path, record["integrity"], digests)
    if changed:
        return f"{changed} is not the file the run wrote (SHA-256 differs)"
    if strict and record["env"]["dirty"]:
        return "dirty: measured with uncommitted changes"
    return None


def _changed_file(path: Path, integrity: dict[str, str | None], digests: Digests) -> str | None:
    beside = {part: path.with_name(name) for part, name in _FILES.items()} | {"ranks": ranks_beside(path)}
    for part, file in beside.items():
        expected = integrity[f"{part}_sha256"]
        # Records may travel without the files beside them.
        if expected is not None and file.is_file() and digests.of(file) != expected:
            return file.name
    return None
