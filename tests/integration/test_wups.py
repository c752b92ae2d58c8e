"""WUPS through the command line: where WordNet lies changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from petl_bench.fixture import WRITERS
from petl_bench.metrics.wordnet import holds_wordnet, usual_folders
from tests.integration.fixture_run import only_record, run


@pytest.mark.needs_wordnet
def test_where_wordnet_lies_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    WRITERS["nextqa_oe"](root, train_videos=4, test_videos=2, size=32, seconds=1)
    copied = shutil.copytree(next(filter(holds_wordnet, usual_folders())), tmp_path / "copy")
    small = ("--data.init_args.partial=true", "--model.init_args.backbone=backbone/blip_tiny_qa.yaml")
    records = []
    for name, more in (("usual", ()), ("elsewhere", (f"--model.init_args.task.init_args.wordnet={copied}",))):
        assert run("test", "nextqaoe_zeroshot", root, tmp_path / name, *small, *more) == 0
        records.append(only_record(tmp_path / name)[1])
    usual, elsewhere = records
    assert usual["protocol"]["metric_version"].startswith("wups-nextoe/1")
    assert {**usual["eval"], "cost": 0} == {**elsewhere["eval"], "cost": 0}
    assert usual["protocol"] == elsewhere["protocol"]
    assert usual["id"]["config_hash"] == elsewhere["id"]["config_hash"]
