"""Runs that the same command began earlier, under another configuration hash.

The hash of a configuration holds the content of files: where an annotation file was edited, the same command names
another folder. The hashes of petl_bench before December 2026 held paths and operational options instead. Either way
what was begun is continued, or refused by name, and not begun anew without a word.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from petl_bench.checkpoints import resumable
from petl_bench.errors import UsageError
from petl_bench.results import FILE_NAME, ResultError, leaves, measured_settings, read_result

_CONFIG = "config.yaml"
#: in checkpoints of the earlier version: one digest for all annotation files
_ANNOTATIONS = "annotation_files"
#: marks what stands for a file in `measured_settings`
_DIGEST = "sha256:"


def earlier_checkpoint(folder: Path, config: dict[str, Any], annotations: str, weights: str | None) -> Path | None:
    """The last checkpoint of an interrupted run that the same command began; None if there is none.

    Args:
        folder: of this run, `.../<hash>/seed<k>`.
        config: of this run, resolved.
        annotations: SHA-256 of all annotation files.
        weights: SHA-256 of the backbone's weights.

    Raises:
        UsageError: if the earlier version completed this run.
    """
    found = []
    for path in _of_this_command(folder, config):
        if _complete_of_the_earlier_version(path / FILE_NAME, annotations, weights):
            raise UsageError(
                f"this run is complete: {path} (of an earlier version, whose configuration hash was another); add "
                "--overwrite true to repeat it, or change seed_everything"
            )
        checkpoint = None if (path / FILE_NAME).is_file() else resumable(path)
        if checkpoint is not None and not _is_at_work(path):
            found.append(checkpoint)
    return max(found, key=lambda checkpoint: checkpoint.stat().st_mtime, default=None)


def as_now(
    before: Mapping[str, Any], now: Mapping[str, Any], config: dict[str, Any], annotations: str
) -> dict[str, Any]:
    """What a checkpoint depends on, in the words of this version: one of the earlier version held paths.

    An option that is what it was counts as unchanged with all it stands for now; so does one that was not there then.
    Weights are compared by their digest elsewhere.

    Args:
        before: of the checkpoint.
        now: of this run.
        config: of this run, resolved, from which both follow.
        annotations: SHA-256 of all annotation files.
    """
    if _ANNOTATIONS not in before:
        return dict(before)
    given = dict(leaves(config))
    out: dict[str, Any] = {}
    for key, value in now.items():
        option = _option(key, before)
        if option is not None and not option.endswith(".pretrained") and given.get(option, value) != before[option]:
            out[option] = before[option]
        elif key.startswith("data.") and str(value).startswith(_DIGEST) and before[_ANNOTATIONS] != annotations:
            out[key] = "of other annotation files"
        else:
            out[key] = value
    gone = before.keys() - given.keys() - {_option(key, before) for key in now} - {_ANNOTATIONS}
    return out | {key: before[key] for key in gone}


def _option(key: str, before: Mapping[str, Any]) -> str | None:
    """The option of `before` that a key of today stands for: itself, or what it is a part of."""
    parts = key.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in before), None)


def _of_this_command(folder: Path, config: dict[str, Any]) -> Iterator[Path]:
    """Folders of runs of this method, backbone and seed whose `config.yaml` says what this run's does."""
    for path in sorted(folder.parents[1].glob(f"*/{folder.name}/{_CONFIG}")):
        if path.parent != folder and _says_the_same(path, config):
            yield path.parent


def _says_the_same(path: Path, config: dict[str, Any]) -> bool:
    try:
        theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
        before, now = measured_settings(theirs), measured_settings(config)
        same_root = theirs["data"]["init_args"].get("root") == config["data"]["init_args"].get("root")
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return False  # damaged, or no configuration of ours
    added = now.keys() - before.keys()  # options that were not there then
    return same_root and before.keys() <= now.keys() and all(before[key] == now[key] for key in now.keys() - added)


def _complete_of_the_earlier_version(path: Path, annotations: str, weights: str | None) -> bool:
    """Whether this run is complete there, on the same annotation files and weights."""
    try:
        record = read_result(path)
    except ResultError:
        return False
    same = record["protocol"]["split_sha256"] == annotations and record["model"]["weights_sha256"] == weights
    return same and "weights" not in record["model"]


def _is_at_work(folder: Path) -> bool:
    """Whether another process holds the lock of a run's folder."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
