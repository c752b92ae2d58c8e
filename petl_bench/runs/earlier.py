"""Runs that the same command began earlier, under another configuration hash.

The hash of a configuration holds the content of files: where an annotation file was edited, the same command names
another folder. The hashes of petl_bench before December 2026 held paths, other operational options and classes and
arguments under their names of then (`petl_bench.renamed`). Either way what was begun is continued, or refused by name,
and not started over without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.machine.resources import exhausted
from petl_bench.renamed import as_written_today, message, settings_of_today
from petl_bench.runs.record import CONFIG_NAME, FILE_NAME, HASH_RULES, leaves, measured_settings, read_result
from petl_bench.storage.checkpoints import read_checkpoint, resumable
from petl_bench.storage.files import FileError
from petl_bench.storage.locks import is_held
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import UnreadableError, read_text

#: gives a configuration the defaults of what it does not say
Resolve = Callable[[dict[str, Any]], dict[str, Any]]

#: in checkpoints of the earlier version: one digest for all annotation files
_ANNOTATIONS = "annotation_files"
#: marks what stands for a file in `measured_settings`
_DIGEST = "sha256:"


def earlier_checkpoint(
    folder: Path, config: dict[str, Any], annotations: str, weights: str | None, resolve: Resolve
) -> Path | None:
    """The last checkpoint of an interrupted run that the same command began; None if there is none.

    Args:
        folder: of this run, `.../<hash>/seed<k>`.
        config: of this run, resolved.
        annotations: SHA-256 of all annotation files.
        weights: SHA-256 of the backbone's weights.
        resolve: gives a configuration the defaults of what it does not say.

    Raises:
        UsageError: if the earlier version completed this run.
    """
    found: dict[Path, list[str]] = {}
    for path, same_root, changes in _of_this_command(folder, config, resolve):
        if _complete_of_the_earlier_version(path / FILE_NAME, annotations, weights):
            raise UsageError(
                f"this run is complete: {path} (of an earlier version, whose configuration hash was another); add "
                "--overwrite true to repeat it, or change seed_everything"
            )
        checkpoint = None if (path / FILE_NAME).is_file() else resumable(path)
        if checkpoint is None or _is_at_work(path):
            continue
        theirs = _annotations_of(checkpoint)
        if same_root or theirs == annotations:
            found[checkpoint] = changes
        else:
            why = "it was on other annotation files" if theirs else "it does not say on which annotation files"
            rank_zero_info(f"{checkpoint} has the same options, but is not continued: {why} (data.root was another)")
    latest = max(found, key=lambda checkpoint: checkpoint.stat().st_mtime, default=None)
    if latest is not None and found[latest]:
        rank_zero_info(message(latest.with_name(CONFIG_NAME), found[latest]))
    return latest


def _annotations_of(checkpoint: Path) -> str | None:
    """The digest of the annotation files that a checkpoint of the earlier version depends on."""
    try:
        return read_checkpoint(checkpoint)["run"]["basis"].get(_ANNOTATIONS)
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return None


def as_now(
    before: Mapping[str, Any], now: Mapping[str, Any], config: dict[str, Any], annotations: str, resolve: Resolve
) -> dict[str, Any]:
    """What a checkpoint depends on, in the words of this version: one of the earlier version held paths.

    An option that is what it was counts as unchanged with all it stands for now. Weights are compared by their digest
    elsewhere.

    Args:
        before: of the checkpoint.
        now: of this run.
        config: of this run, resolved, from which both follow.
        annotations: SHA-256 of all annotation files.
        resolve: gives a configuration the defaults of what it does not say.
    """
    before = settings_of_today(before)
    if _ANNOTATIONS not in before:
        return by_present_rules(before, now, config, resolve)
    given = measured_settings(config)
    known = {key: value for key, value in before.items() if key in given or (key not in now and key != _ANNOTATIONS)}
    then = by_present_rules(known, given, config, resolve)
    out: dict[str, Any] = {}
    for key, value in now.items():
        option = _option(key, given)
        if str(value).startswith(_DIGEST) and key.startswith("data."):
            out[key] = value if before[_ANNOTATIONS] == annotations else "of other annotation files"
        elif option is None:
            out[key] = before.get(key, value)
        elif then.get(option) != given[option] and not option.endswith(".pretrained"):
            out[option] = then.get(option)
        else:
            out[key] = value
    return out | {key: then[key] for key in then.keys() - given.keys()}


def same_settings(before: Mapping[str, Any], config: dict[str, Any], resolve: Resolve) -> bool:
    """Whether what an earlier version measured is what this configuration measures, see `by_present_rules`."""
    now = measured_settings(config)
    if any(key in now and now[key] != value for key, value in before.items()):
        return False
    return by_present_rules(before, now, config, resolve) == now


def by_present_rules(
    before: Mapping[str, Any], now: Mapping[str, Any], config: dict[str, Any], resolve: Resolve
) -> dict[str, Any]:
    """Settings that an earlier version wrote down, as this one would have written them.

    Options that count no more are left out. Those that the earlier version did not have get the values that they have
    where nothing is said about them.

    Args:
        before: its settings by dotted key.
        now: those of this version.
        config: the resolved configuration of `now`, with options that do not count.
        resolve: gives a configuration the defaults of what it does not say.
    """
    options = dict(leaves(config))
    kept = {key: value for key, value in before.items() if key in now or key not in options}
    new = {_whole(key) for key in now.keys() - before.keys()} & {_whole(key) for key in options}
    if not new:
        return kept
    unsaid = measured_settings(resolve(_without(config, new)))
    return kept | {key: value for key, value in unsaid.items() if _whole(key) in new}


def _option(key: str, options: Mapping[str, Any]) -> str | None:
    """The option that a key of today stands for: itself, or what it is a part of."""
    parts = key.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in options), None)


def _whole(key: str) -> str:
    """The option that a dotted key belongs to; what is inside a list is no option of its own."""
    return re.split(r"\.\d+(?:\.|$)", key, maxsplit=1)[0]


def _without(value: Any, left_out: Collection[str], key: str = "") -> Any:
    """A configuration without some dotted keys."""
    if not isinstance(value, dict):
        return value
    below = {name: f"{key}.{name}" if key else str(name) for name in value}
    return {name: _without(item, left_out, below[name]) for name, item in value.items() if below[name] not in left_out}


def _of_this_command(folder: Path, config: dict[str, Any], resolve: Resolve) -> Iterator[tuple[Path, bool, list[str]]]:
    """Folders of runs whose `config.yaml` says what this run's does.

    With each: whether its data lie at the same place, and what of it was read as something else.
    """
    for path in sorted(folder.parents[1].glob(f"*/{folder.name}/{CONFIG_NAME}")):
        if path.parent == folder:
            continue
        try:
            theirs, changes = as_written_today(parse_yaml(read_text(path), str(path)))
            same_root = theirs["data"]["init_args"].get("root") == config["data"]["init_args"].get("root")
            same = same_settings(measured_settings(theirs), config, resolve)
        except (UnreadableError, UsageError, AttributeError, KeyError, TypeError):
            continue  # damaged, or no configuration of ours
        if same:
            yield path.parent, same_root, changes


def _complete_of_the_earlier_version(path: Path, annotations: str, weights: str | None) -> bool:
    """Whether this run is complete there, on the same annotation files and weights."""
    try:
        record = read_result(path)
    except FileError:
        return False
    same = record["protocol"]["split_sha256"] == annotations and record["model"]["weights_sha256"] == weights
    return same and record["id"].get("hash_rules", 1) < HASH_RULES  # by today's it would lie in this run's folder


def lock_of(folder: Path) -> Path:
    """The lock file of a run's folder, beside it."""
    return folder.with_name(f".{folder.name}.lock")


def _is_at_work(folder: Path) -> bool:
    """Whether another process holds the lock of a run's folder."""
    path = lock_of(folder)
    try:
        return is_held(path)
    except PermissionError:
        return True  # nobody knows
    except OSError as error:
        raise exhausted(error, path) or CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
