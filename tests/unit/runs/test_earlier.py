"""What the same command began earlier, under another hash, is found, and what it depended on is translated."""

from __future__ import annotations

import copy
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import datamodules.msrvtt  # noqa: F401  # what is operational is looked up in classes that are loaded
from petl_bench.errors import UsageError
from petl_bench.runs.earlier import as_now, earlier_checkpoint
from petl_bench.runs.record import HASH_RULES, measured_settings, write_result
from tests.records import make_record

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 3, "devices": 1, "callbacks": None},
    "model": {
        "class_path": "methods.linear.Linear",
        "init_args": {
            "backbone": {
                "class_path": "petl_bench.backbones.clip.CLIP",
                "init_args": {"architecture": "tiny", "pretrained": "/w/a.bin", "gradient_checkpointing": False},
            },
            "optimizer": {"class_path": "petl_bench.optimizers.AdamWCosine", "init_args": {"lr": 0.1}},
        },
    },
    "data": {
        "class_path": "datamodules.msrvtt.MSRVTT",
        "init_args": {"root": "/a", "captions_file": "c.json", "train_list": None, "eval_batch_size": 32, "frames": 8},
    },
}
CONTENTS = {
    "data.init_args": {"captions_file": "sha256:11", "train_list": "sha256:22", "manifest": None},
    "model.init_args.backbone.init_args": {
        "architecture": "sha256:33",
        "pretrained": {"sha256": "44"},
        "image_size": 64,
    },
}
#: of 3e531d0: paths as they were given, operational options, one digest for all annotation files
BEFORE = {
    "trainer.max_epochs": 3,
    "trainer.callbacks": None,
    "trainer.profiler": None,
    "model.class_path": "methods.linear.Linear",
    "model.init_args.backbone.class_path": "petl_bench.backbones.clip.CLIP",
    "model.init_args.backbone.init_args.architecture": "tiny",
    "model.init_args.backbone.init_args.pretrained": "/elsewhere/a.bin",
    "model.init_args.backbone.init_args.gradient_checkpointing": False,
    "model.init_args.optimizer.class_path": "petl_bench.optimizers.AdamWCosine",
    "model.init_args.optimizer.init_args.lr": 0.1,
    "data.class_path": "datamodules.msrvtt.MSRVTT",
    "data.init_args.captions_file": "c.json",
    "data.init_args.train_list": None,
    "data.init_args.eval_batch_size": 16,
    "data.init_args.frames": 8,
    "seed_everything": 0,
    "annotation_files": "55",
    "processes": 1,
    "training_rows": "66",
}


def differing(before: dict[str, Any], config: dict[str, Any] = CONFIG, annotations: str = "55") -> dict[str, Any]:
    """What `ResumePoints` would call changed, with its value before."""
    now = measured_settings(config, CONTENTS) | {"seed_everything": 0, "processes": 1, "training_rows": "66"}
    config = config | {"trainer": config["trainer"] | {"profiler": None}}
    then = as_now(before, now, config, annotations, resolved)
    return {key: then.get(key) for key in then.keys() | now.keys() if then.get(key) != now.get(key)}


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """With the default of an option that came later."""
    config = copy.deepcopy(config)
    config["data"]["init_args"].setdefault("new", 3)
    return config


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, name = path.split(".")
    block = config
    for parent in parents:
        block = block[parent]
    block[name] = value
    return config


def test_a_checkpoint_of_the_earlier_version_that_depends_on_the_same() -> None:
    assert differing(BEFORE) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_epochs", 9),
        ("model.init_args.optimizer.init_args.lr", 0.5),
        ("model.init_args.backbone.init_args.architecture", "ViT-B-16"),
        ("data.init_args.frames", 12),
        ("processes", 2),
        ("training_rows", "77"),
        ("seed_everything", 1),
    ],
)
def test_what_was_other_is_named(key: str, value: Any) -> None:
    assert differing(BEFORE | {key: value})[key] == value


def test_other_annotation_files_are_named_by_their_options() -> None:
    assert set(differing(BEFORE, annotations="99")) == {"data.init_args.captions_file", "data.init_args.train_list"}


def test_an_option_that_is_gone_is_named() -> None:
    assert differing(BEFORE | {"data.init_args.gone": 3}) == {"data.init_args.gone": 3}


def test_the_same_annotations_may_have_other_names() -> None:
    assert differing(BEFORE | {"data.init_args.captions_file": "other.json", "data.init_args.train_list": "b"}) == {}


def test_an_option_that_was_not_there_then_had_its_default() -> None:
    assert differing(BEFORE, changed("data.init_args.new", 3)) == {}
    assert differing(BEFORE, changed("data.init_args.new", 4)) == {"data.init_args.new": 3}


def test_a_checkpoint_of_this_version_stays_as_it_is() -> None:
    before = {"data.init_args.captions_file": "sha256:0"}
    now = {"data.init_args.captions_file": "sha256:1"}
    assert as_now(before, now, CONFIG, "55", resolved) == before


# --- folders --------------------------------------------------------------------------------------------------------


def place(runs: Path, config: dict[str, Any], name: str = "0ld0ld00", *files: str) -> Path:
    """A run's folder with its configuration and some files."""
    folder = runs / "msrvtt" / "linear" / "clip-tiny" / name / "seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for file in files:
        (folder / file).touch()
    return folder


def found(runs: Path, config: dict[str, Any] = CONFIG) -> Path | None:
    return earlier_checkpoint(
        runs / "msrvtt" / "linear" / "clip-tiny" / "12345678" / "seed0", config, "55", "44", resolved
    )


def test_an_interrupted_run_of_the_same_command_is_found(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    folder = place(tmp_path, changed("data.init_args.eval_batch_size", 3), "0ld0ld00", "last.ckpt")
    assert found(tmp_path) == folder / "last.ckpt"
    assert found(tmp_path, changed("data.init_args.new", 3)) == folder / "last.ckpt"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.max_epochs", 9),
        ("data.init_args.root", "/b"),  # another dataset, maybe
        ("data.init_args.gone", 1),
        ("trainer.callbacks", [{"class_path": "a.B"}]),
    ],
)
def test_runs_of_other_commands_are_left_alone(path: str, value: Any, tmp_path: Path) -> None:
    place(tmp_path, changed(path, value), "0ld0ld00", "last.ckpt")
    assert found(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{bad", "[1]", "data: 3", "\x00"])
def test_damaged_configurations_are_left_alone(text: str, tmp_path: Path) -> None:
    folder = place(tmp_path, CONFIG, "0ld0ld00", "last.ckpt")
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    assert found(tmp_path) is None


def test_a_run_that_is_going_on_is_left_alone(tmp_path: Path) -> None:
    folder = place(tmp_path, CONFIG, "0ld0ld00", "last.ckpt")
    lock = folder.with_name(".seed0.lock")
    lock.touch()
    child = os.fork()  # a process does not see locks of its own
    if not child:
        with lock.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            (tmp_path / "locked").touch()
            while (tmp_path / "locked").exists():
                pass
        os._exit(0)
    while not (tmp_path / "locked").exists():
        pass
    try:
        assert found(tmp_path) is None
    finally:
        (tmp_path / "locked").unlink()
        os.waitpid(child, 0)
    assert found(tmp_path) == folder / "last.ckpt"


def test_a_complete_run_of_the_earlier_version_is_not_repeated(tmp_path: Path) -> None:
    folder = place(tmp_path, CONFIG)
    record = make_record(protocol__split_sha256="5" * 64, model__weights_sha256="4" * 64)
    record["model"].pop("weights", None)
    write_result(folder / "result.json", record)
    arguments = (folder.parents[1] / "12345678" / "seed0", CONFIG)
    with pytest.raises(UsageError, match=r"complete: .*0ld0ld00.*overwrite"):
        earlier_checkpoint(*arguments, "5" * 64, "4" * 64, resolved)
    assert earlier_checkpoint(*arguments, "6" * 64, "4" * 64, resolved) is None  # measured on other files
    record["id"]["hash_rules"] = HASH_RULES
    write_result(folder / "result.json", record)
    assert (
        earlier_checkpoint(*arguments, "5" * 64, "4" * 64, resolved) is None
    )  # of this version: it would have the same hash
