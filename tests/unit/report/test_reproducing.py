"""The command of a row gives it again: of its configuration if that is there, else of the packaged one it named."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from petl_bench.report.collect import Run
from petl_bench.report.reproducing import command_of
from tests.records import make_record

RECIPE = make_record()["train"] | {"recipe": {"name": "msrvtt_adaptformer", "max_epochs": 5}}


def run(folder: Path, **overrides: Any) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder / "result.json", make_record(**overrides))


def test_the_configuration_beside_a_record_is_all_of_it(tmp_path: Path) -> None:
    found = run(tmp_path / "it's here", train=RECIPE)
    (found.path.parent / "config.yaml").touch()
    words = shlex.split(command_of([found]))
    assert words == [
        *(
            "petl-bench",
            "fit",
            f"--config={found.path.parent / 'config.yaml'}",
            "--runs_dir=again",
            "--seed_everything=0",
        ),
    ]


def test_a_record_alone_knows_what_it_named(tmp_path: Path) -> None:
    assert command_of([run(tmp_path)]) == ""
    seeds = [run(tmp_path / str(seed), train=RECIPE, id__seed=seed) for seed in (0, 42)]
    assert command_of(seeds[:1]) == "petl-bench fit --config=msrvtt_adaptformer --seed_everything=0"
    assert command_of(seeds) == (
        "for seed in 0 42; do petl-bench fit --config=msrvtt_adaptformer --seed_everything=$seed; done"
    )


@pytest.mark.parametrize("name", ["x; rm -rf /", "$(id)", "--help", "a b", "", "`id`", "a\nb"])
def test_a_record_puts_nothing_else_into_a_shell(name: str, tmp_path: Path) -> None:
    train = RECIPE | {"recipe": {"name": name, "max_epochs": 5}}
    assert command_of([run(tmp_path, train=train)]) == ""


def test_a_test_of_an_adapter_needs_the_adapter(tmp_path: Path) -> None:
    tested = run(tmp_path, kind="test", train=None)
    (tmp_path / "config.yaml").touch()  # of the training, which this was not
    assert command_of([tested]) == ""
    (tmp_path / "adapter.safetensors").touch()
    assert command_of([tested]) == f"petl-bench test --ckpt_path={tmp_path / 'adapter.safetensors'}"
