"""In what a training was not the one that a packaged configuration describes, as far as anything tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import UsageError
from petl_bench.renamed import as_written_today
from petl_bench.report.collect import Run
from petl_bench.report.marks import training_of
from petl_bench.runs.record import CONFIG_NAME, OPERATIONAL_OPTIONS
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import UnreadableError, is_file, read_text, shown

#: bytes of a config.yaml
_MOST_CONFIG = 1_000_000
#: where files lie, how they are read, how the work is cut up; and weights, of which the record knows more than a path
_NO_RECIPE = frozenset(
    {
        *("root", "videos", "cache", "on_cache_miss", "num_workers", "loader_timeout", "eval_batch_size"),
        *("chunk", "gradient_checkpointing", "pretrained"),
    }
)
#: what may or may not change a training: files of any content, arithmetic, whether faulty videos are left out
_DOUBTFUL = frozenset({"precision", "bad_videos", "partial"})
_FILES = ("_file", "_list", "manifest", "vocabulary")
#: options of the trainer that change a training, and that no packaged configuration sets: Lightning's own values
_LIGHTNING_S = {"accumulate_grad_batches": 1, "gradient_clip_val": None}
#: of an option that a configuration of an earlier version does not have
_ABSENT = object()
#: options that there were none of before, by what was done then
_BEFORE = {"data.init_args.jpeg_quality": None}
#: levels of a configuration that a reader need not see
_LEVELS = frozenset({"trainer", "model", "data", "init_args"})


class Departures(NamedTuple):
    """Of a training from a packaged configuration: what is known to differ, and what is not known to be equal."""

    known: tuple[str, ...]
    unknown: tuple[str, ...]


def departures(runs: Sequence[Run], recipes: Sequence[str]) -> Departures:
    """Those from the nearest of some packaged configurations.

    The configuration beside a record tells all that the packaged one spells out. A record alone, and that of a test,
    knows little of its training: the rest is unknown.

    Args:
        runs: seeds of one configuration.
        recipes: names of packaged ones.
    """
    configs = [run for run in runs if run.record["kind"] != "test" and is_file(run.path.with_name(CONFIG_NAME))]
    found = [
        next(filter(None, (_beside(run, name) for run in configs)), None) or _of_record(runs[0].record, name)
        for name in recipes
    ]
    return min(found, key=lambda one: (len(one.known), len(one.unknown)))


def _beside(run: Run, name: str) -> Departures | None:
    """By the configuration of a training; None if it cannot be read.

    A record whose configuration is not the one that it names is no part of a report.
    """
    return _of_file(run.path.with_name(CONFIG_NAME), run.record["integrity"]["config_sha256"], name)


@lru_cache(maxsize=10_000)
def _of_file(path: Path, digest: str, name: str) -> Departures | None:
    config = _read(path, digest)
    return None if config is None else _of_config(config, name)


def _of_config(config: dict[str, Any], name: str) -> Departures:
    known, unknown = [], []
    for key, packaged, here in _unequal(_packaged(name), config, ""):
        *_, option = key.split(".")
        short = ".".join(part for part in key.split(".") if part not in _LEVELS)
        if here is _ABSENT:
            unknown.append(f"{short} here is not known")
        elif option.endswith(_FILES) or _is_path(here):
            unknown.append(f"{short} is not that of {name}")
        else:
            told = f"{short} {shown(packaged)} in {name}, here {shown(here)}"
            (unknown if option in _DOUBTFUL else known).append(told)
    return Departures(tuple(known), tuple(unknown))


def _is_path(value: Any) -> bool:
    """Of files nothing is told but that they are others: paths are nobody's business."""
    return isinstance(value, str) and ("/" in value or "\\" in value)


def _of_record(record: dict[str, Any], name: str) -> Departures:
    """The record's epochs are held against its own recipe already, where it has one."""
    train = training_of(record) or {}
    packaged = _packaged(name)
    optimizer = packaged["model"]["init_args"]["optimizer"]["class_path"].rpartition(".")[2]
    own = train.get("recipe") or {}
    expected = {
        "epochs": packaged["trainer"]["max_epochs"],
        "global_batch": packaged["data"]["init_args"]["batch_size"],
        "optimizer": optimizer,
    }
    known = [
        f"{option} {shown(value)} in {name}, here {shown(train[option])}"
        for option, value in expected.items()
        if train.get(option) not in (None, value)
        and not (option == "epochs" and own.get("max_epochs") == value and train[option] < value)
    ]
    if own.get("name") == name:
        return Departures(tuple(known), (f"of its training only the name of {name} is known",))
    told = f"is called {shown(own['name'])}" if own else "is not known"
    return Departures(tuple(known), (f"its recipe {told}, not {name}",) if own else (f"its recipe {told}",))


def _unequal(packaged: Any, here: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys, and both values, of all that a packaged configuration spells out and that has another value here."""
    if key in OPERATIONAL_OPTIONS or (key and key.rpartition(".")[2] in _NO_RECIPE):
        return
    if not isinstance(packaged, dict):
        here = _BEFORE.get(key, here) if here is _ABSENT else here
        if packaged != here:
            yield key, packaged, here
        return
    if here is _ABSENT:
        yield key, packaged, here
        return
    inside = here if isinstance(here, dict) else {}
    if packaged.get("class_path") != inside.get("class_path"):
        yield key, _class(packaged), _class(here)
        return
    for name, value in packaged.items():
        yield from _unequal(value, inside.get(name, _ABSENT), f"{key}.{name}" if key else name)


def _class(value: Any) -> Any:
    named = value.get("class_path") if isinstance(value, dict) else value
    return named.rpartition(".")[2] if isinstance(named, str) else named


@cache
def _packaged(name: str) -> dict[str, Any]:
    config = composed(config_folder() / f"{name}.yaml")
    return {**config, "trainer": {**_LIGHTNING_S, **config["trainer"]}}


@lru_cache(maxsize=8)
def _read(path: Path, digest: str) -> dict[str, Any] | None:
    """`digest` is that of the file, by which it is kept."""
    try:
        config = as_written_today(parse_yaml(read_text(path, _MOST_CONFIG), path.name))[0]
    except (UsageError, UnreadableError):
        return None
    return config if isinstance(config, dict) else None
