"""Values of every kind for options of every command: one clear line that names the option, or a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.faults import options
from petl_bench.main import main

COMMANDS = ("fit", "validate", "test", "predict", "params", "profile", "plan", "data", "report", "fixture", "list")


def test_a_few_of_the_values_that_make_faults_tries_more_of() -> None:
    count, failed = options.tried(share=0.004, seed=1)
    assert count > 10
    assert not failed


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command])
    except SystemExit as stop:  # argparse ends this way
        code = stop.code
    assert code in (2, 4)
    told = capsys.readouterr().err
    assert "error: " in told
    assert "unexpected" not in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("config: .nan", "config: no configuration names others"),
        ("config: {a: 1}", "config: no configuration names others"),
        ("allow_change: {a: 1}", "allow_change is {'a': 1}: give a list of keys"),
        ("allow_change: 0.5", "allow_change is 0.5: give a list of keys"),
        ('allow_change: "a\\0b"', "allow_change"),
        ("allow_change: [1]", "allow_change"),
    ],
)
def test_options_of_the_command_in_a_configuration(
    content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    assert main(["fit", "--config=fixture_linear", f"--config={path}"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "code", "told"),
    [
        ("--ckpt_path=pipe", 5, "ckpt_path: cannot read the checkpoint pipe: not a regular file"),
        ("--ckpt_path=.", 5, "ckpt_path: cannot read the checkpoint .: a folder, not a file"),
        ("--data.init_args.root=nowhere", 4, "data.root nowhere is no folder"),
        ("--data.init_args.test_list=nothing.csv", 4, "(see data.root and data.test_list)"),
        ("--trainer.logger=nothing.yaml", 2, "trainer.logger: no file 'nothing.yaml'"),
        (f"--trainer={'x' * 5000}", 2, "is no group of options"),
        (f"--config={'x' * 3000}", 2, "no packaged configuration"),
        (f"--trainer.limit_val_batches={'x' * 5000}", 2, "trainer.limit_val_batches: neither batches"),
        ("--model.init_args.backbone.init_args.image_size=2", 2, "backbone.image_size is 2"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_the_option_is_named(
    option: str, code: int, told: str, dataset: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(own_folder / "pipe")
    small = ("--model.init_args.backbone=backbone/clip_tiny.yaml", "--data.init_args.partial=true")
    arguments = ["fit", "--config=fixture_linear", *small, f"--data.init_args.root={dataset}", option]
    assert main(arguments) == code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert told in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("data", "verify"), "--timeout=1e30"),
        (("data", "verify"), "--memory=inf"),
        (("data", "verify"), f"--manifest={'x' * 400}"),
        (("data", "verify"), "--manifest=a\0b"),
        (("data", "cache"), "--cache=a\0b"),
        (("data", "describe"), "--backbone=[1]"),
        (("report",), f"--output={'x' * 400}"),
        (("params",), f"--json={'x' * 5000}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_option_of_a_command_is_named(
    command: tuple[str, ...], option: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--config=data/fixture.yaml", f"--data.root={dataset}") if command[0] == "data" else ()
    try:
        code = main([*command, *data, option])
    except SystemExit as stop:  # argparse ends this way
        code = stop.code
    assert code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert option.split("=")[0] in line
    assert len(line) < 1000
