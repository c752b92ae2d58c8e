"""The README's tables are what the records of the benchmark give, and these are whole."""

from __future__ import annotations

import pytest

from benchmarks.fixture import table
from benchmarks.fixture.figures import Figures
from benchmarks.fixture.place import Place
from benchmarks.fixture.runs import finished, sound_records
from benchmarks.readme_leaderboard import BEGIN, END, README, block, with_block


def test_the_block_is_of_todays_records() -> None:
    """All of its figures take a minute: those of one method stand for them."""
    page = README.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    shown = page.partition(BEGIN)[2].partition(END)[0]
    done = finished(Place())
    assert shown.startswith(f"\n{table.digest(done)}\n"), "python -m benchmarks.readme_leaderboard"
    if ("fixture_linear", 0) in done:
        assert f"| {' | '.join(table.row(Figures(done), 'clip', 'linear'))} |" in shown
    if not done:
        assert with_block(page, block()) == page


def test_its_records_are_whole_and_clean() -> None:
    found = sound_records(Place())
    assert found.rejected == []
    for run in found.runs:
        assert run.record["origin"] == "fixture"
        beside = {path.name for path in run.path.parent.iterdir()}
        assert {"result.json", "ranks.npz", "config.yaml", "recipe.json"} <= beside
        assert not beside & {"adapter.safetensors", "last.ckpt"}
        assert sum(path.stat().st_size for path in run.path.parent.iterdir()) < 100_000


def test_a_page_without_markers_is_refused() -> None:
    for page in ("", BEGIN, f"{END} {BEGIN}"):
        with pytest.raises(RuntimeError, match="lacks"):
            with_block(page, "text")
    assert with_block(f"a {BEGIN} old {END} b", "new\n") == f"a {BEGIN}\nnew\n{END} b"
