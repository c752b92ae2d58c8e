"""The README's tables are what the records of the benchmark give, and these are whole."""

from __future__ import annotations

import pytest

from benchmarks.fixture.place import Place
from benchmarks.readme_leaderboard import BEGIN, END, README, block, with_block
from petl_bench.report.collect import collect


def test_the_block_is_what_its_records_give() -> None:
    page = README.read_text(encoding="utf-8")
    assert with_block(page, block()) == page, "python -m benchmarks.readme_leaderboard"
    assert page.count(BEGIN) == page.count(END) == 1


def test_its_records_are_whole_and_clean() -> None:
    found = collect([Place().results], strict=True)
    assert found.rejected == []
    for run in found.runs:
        assert run.record["origin"] == "fixture"
        beside = {path.name for path in run.path.parent.iterdir()}
        assert {"result.json", "ranks.npz", "config.yaml", "recipe.json"} <= beside
        assert not beside & {"adapter.safetensors", "last.ckpt"}
        assert sum(path.stat().st_size for path in run.path.parent.iterdir()) < 200_000


def test_a_page_without_markers_is_refused() -> None:
    for page in ("", BEGIN, f"{END} {BEGIN}"):
        with pytest.raises(RuntimeError, match="lacks"):
            with_block(page, "text")
    assert with_block(f"a {BEGIN} old {END} b", "new\n") == f"a {BEGIN}\nnew\n{END} b"
