"""Augmentation is part of the recipe: recorded, hashed, marked, no ground for another table."""

from __future__ import annotations

from pathlib import Path

import pytest

from petl_bench.main import main
from petl_bench.report.collect import collect
from petl_bench.report.tables import build_tables
from tests.integration.fixture_run import only_record, run
from tests.integration.test_cache import cache

RECIPE = "rand-m7-n4-mstd0.5-inc1"
AUGMENTED = f"--data.init_args.augmentation={RECIPE}"
FIT = ("fit", "fixture_lora")


def test_recorded_hashed_and_marked_in_the_same_table(dataset: Path, tmp_path: Path) -> None:
    assert run(*FIT, dataset, tmp_path) == 0
    plain_folder, plain = only_record(tmp_path)
    assert run(*FIT, dataset, tmp_path, AUGMENTED) == 0  # a folder of its own
    (folder,) = {path.parent for path in tmp_path.rglob("result.json")} - {plain_folder}
    assert f"augmentation: {RECIPE}" in (folder / "config.yaml").read_text(encoding="utf-8")

    (table,) = build_tables(collect([tmp_path]).runs)
    states = {row.runs[0].path.parent: row.marks for row in table.rows}
    assert f"augmentation {RECIPE}" in states[folder]
    assert not any("augmentation" in mark for mark in states[plain_folder])
    records = {row.runs[0].path.parent: row.runs[0].record for row in table.rows}
    assert records[folder]["train"]["augmentation"] == RECIPE
    assert plain["train"]["augmentation"] is None
    assert records[folder]["id"]["config_hash"] != plain["id"]["config_hash"]
    assert records[folder]["protocol"] == plain["protocol"]


def test_cached_frames_serve_its_evaluation_but_not_its_training(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache(dataset, tmp_path / "cache") == 0
    cached = f"--data.init_args.cache={tmp_path / 'cache'}"
    assert run(*FIT, dataset, tmp_path / "runs", AUGMENTED, cached) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        f"data.augmentation {RECIPE} changes frames before they are resized, and data.cache holds resized ones" in line
    )
    assert not (tmp_path / "runs").exists()

    assert run(*FIT, dataset, tmp_path / "runs", AUGMENTED) == 0
    folder, record = only_record(tmp_path / "runs")
    assert main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}", cached]) == 0
    _, again = only_record(tmp_path / "runs", "test.json")
    assert again["env"]["frame_cache"]["clips_decoded"] == 0
    assert again["eval"]["t2v"] == record["eval"]["t2v"]


@pytest.mark.parametrize("value", ["rand-x3", "true", "3", "[rand]"])
def test_what_is_no_recipe_is_refused(
    value: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*FIT, dataset, tmp_path / "runs", f"--data.init_args.augmentation={value}") == 2
    assert "augmentation" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "runs").exists()
