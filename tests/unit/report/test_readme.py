"""The README's leaderboard is what its records give, and these are of today's packaged configurations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme_leaderboard
from benchmarks.readme_leaderboard import BEGIN, END, README, RECORDS, block, keep, recipe_hash, with_block
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.commands.demo import METHODS
from petl_bench.report.collect import collect
from petl_bench.storage.dotted import put


def test_the_block_is_what_its_records_give() -> None:
    page = README.read_text(encoding="utf-8")
    assert with_block(page, block()) == page, "python -m benchmarks.readme_leaderboard"
    assert page.count(BEGIN) == page.count(END) == 1


def test_its_records_are_whole_and_clean() -> None:
    found = collect([RECORDS], strict=True)
    assert found.rejected == []
    assert len(found.runs) == len(METHODS)
    for run in found.runs:
        assert run.record["origin"] == "fixture"
        assert {path.name for path in run.path.parent.iterdir()} == {"result.json", "ranks.npz", "config.yaml"}
    assert sum(path.stat().st_size for path in RECORDS.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("model.init_args.optimizer.init_args.lr", 0.5, True),
        ("model.class_path", "methods.linear.Linear", True),
        ("trainer.max_epochs", 7, True),
        ("data.init_args.frames", 8, True),
        ("model.init_args.new_option", 1, True),
        ("data.init_args.root", "elsewhere", False),
        ("model.init_args.backbone.init_args.pretrained", "elsewhere.safetensors", False),
        ("data.init_args.num_workers", 7, False),
        ("seed_everything", 1, False),
    ],
)
def test_a_recipe_that_changed_is_refused(key: str, value: Any, counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(path: Path) -> dict[str, Any]:
        config = composed(path)
        put(config, key, value)
        return config

    monkeypatch.setattr(readme_leaderboard, "composed", changed)
    if counts:
        with pytest.raises(RuntimeError, match=r"has changed: python -m benchmarks\.readme_leaderboard --remake"):
            block()
    else:
        block()
    packaged = config_folder() / "fixture_adaptformer.yaml"
    assert (recipe_hash(changed(packaged)) != recipe_hash(composed(packaged))) == counts


def test_records_that_are_not_valid_are_no_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "records"
    shutil.copytree(RECORDS, copy)
    monkeypatch.setattr(readme_leaderboard, "RECORDS", copy)
    assert block() == block()
    next(copy.rglob("ranks.npz")).write_bytes(b"forged")
    with pytest.raises(RuntimeError, match="is not the file the run wrote"):
        block()


def test_records_of_a_demo_take_the_place_of_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, place = tmp_path / "runs", tmp_path / "kept"
    shutil.copytree(RECORDS, runs)
    next(runs.rglob("result.json")).with_name("adapter.safetensors").write_bytes(b"large")
    (place / "before").mkdir(parents=True)
    monkeypatch.setattr(readme_leaderboard, "RECORDS", place)
    keep(runs)
    assert not (place / "before").exists()
    assert not list(place.rglob("adapter.safetensors"))
    assert len(list(place.rglob("result.json"))) == len(METHODS)


def test_a_page_without_markers_is_refused() -> None:
    for page in ("", BEGIN, f"{END} {BEGIN}"):
        with pytest.raises(RuntimeError, match="lacks"):
            with_block(page, "text")
    assert with_block(f"a {BEGIN} old {END} b", "new\n") == f"a {BEGIN}\nnew\n{END} b"
