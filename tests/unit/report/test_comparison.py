from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petl_bench.commands import report
from petl_bench.report import verification
from petl_bench.report.collect import Collection, Run, collect
from petl_bench.report.comparison import with_statistics
from petl_bench.report.model import Difference, Interval, Row, Table
from petl_bench.report.statistics import holm, paired, recall
from petl_bench.report.tables import build_tables
from petl_bench.report.verification import verified
from petl_bench.runs.record import ranks_beside, write_result
from petl_bench.storage.files import file_sha256
from tests.answered import retrieval

VIDEOS = 60
HARD = np.random.default_rng(0).normal(1, 1, VIDEOS)


def run(folder: Path, method: str, shift: float, seed: int = 0, videos: int = VIDEOS, **overrides: Any) -> Run:
    """Of a method whose ranks grow with its shift."""
    draw = np.random.default_rng([seed, round(10 * shift)])
    t2v, v2t = (
        np.clip(np.exp(HARD[:videos] + shift + draw.normal(0, 0.4, videos)), 1, videos).astype(int) for _ in range(2)
    )
    return retrieval(
        folder / f"{method}{seed}",
        t2v.tolist(),
        v2t.tolist(),
        **{"names": [f"video{number}" for number in range(videos)], **overrides},
        model__method=method,
        id__config_hash=(method * 64)[:64].encode().hex()[:64],
        id__seed=seed,
    )


def compared(*runs: Run, cache: Path | None = None) -> Table:
    (table,) = with_statistics(build_tables(runs), cache)
    return table


def row(table: Table, name: str) -> Row:
    (found,) = (row for row in table.rows if row.name == name)
    return found


def mean(found: Row, title: str) -> float:
    value = found.values[title]
    assert value is not None
    return value.mean


def interval(found: Row, title: str) -> Interval | None:
    value = found.values[title]
    assert value is not None
    return value.interval


def known(difference: Difference | None) -> Difference:
    assert difference is not None
    return difference


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [run(tmp_path, *about) for about in (("Full", 0.1), ("A", 0.0), ("B", 0.5), ("C", 1.2))]


def test_rows_differ_from_the_best_and_from_full_finetuning(runs: list[Run]) -> None:
    table = compared(*runs)
    title = "t2v R@1"
    best = max(table.rows, key=lambda one: mean(one, title))
    ranks = {one.name: np.load(ranks_beside(one.runs[0].path))["t2v"] for one in table.rows}
    expected = {
        name: paired([recall(ranks[name], 1)], [recall(ranks[best.name], 1)], np.arange(VIDEOS), "hit")
        for name in ranks
        if name != best.name
    }
    assert best.from_best[title] is None
    assert {name: known(row(table, name).from_best[title]).p for name in expected} == {
        name: found.p for name, found in expected.items()
    }
    adjusted = [known(row(table, name).from_best[title]).p_holm for name in expected]
    assert adjusted == holm([found.p for found in expected.values()])
    assert row(table, "Full").from_full[title] is None
    against = known(row(table, "C").from_full[title])
    assert against.delta == pytest.approx(100 * ((ranks["C"] <= 1).mean() - (ranks["Full"] <= 1).mean()))
    assert against.interval.low <= against.delta <= against.interval.high < 0
    assert against.test == "mcnemar"


def test_lower_ranks_are_better_and_medians_are_not_tested(runs: list[Run]) -> None:
    table = compared(*runs)
    assert min(table.rows, key=lambda one: mean(one, "t2v MnR")).from_best["t2v MnR"] is None
    assert known(row(table, "C").from_best["t2v MnR"]).delta > 0
    assert {one.from_best["t2v MdR"] for one in table.rows} == {None}
    assert all(interval(one, "t2v MdR") for one in table.rows)


def test_costs_have_no_interval_and_the_note_tells_half_widths(runs: list[Run]) -> None:
    table = compared(*runs)
    assert interval(row(table, "A"), "Trainable M") is None
    (note,) = (note for note in table.notes if note.startswith("95 % intervals"))
    halves = []
    for one in table.rows:
        found = interval(one, "Rsum")
        assert found is not None
        halves.append((found.high - found.low) / 2)
    assert note.endswith(f"Rsum ± {np.median(halves):.1f}.")
    assert "t2v R@1 ± " in note


def test_seeds_are_compared_as_one_configuration(tmp_path: Path) -> None:
    table = compared(*(run(tmp_path, method, shift, seed) for seed in (0, 1) for method, shift in (("A", 0), ("B", 1))))
    found = known(row(table, "B").from_best["t2v R@1"])
    assert found.delta == pytest.approx(mean(row(table, "B"), "t2v R@1") - mean(row(table, "A"), "t2v R@1"))
    assert found.test == "sign-flip"


def test_rows_without_ranks_or_with_other_queries_stay_unpaired(tmp_path: Path, runs: list[Run]) -> None:
    ranks_beside(runs[2].path).unlink()
    other = run(tmp_path, "D", 0.3, names=[f"other{number}" for number in range(VIDEOS)])
    fewer = run(tmp_path, "E", 0.8, videos=20)
    table = compared(*runs, other, fewer)
    assert {one.name for one in table.rows if "unpaired" in one.marks} == {"B", "D", "E"}
    assert table.notes[-1].startswith("Unpaired, compared with no other row: ")
    for reason in (
        "B (no ranks.npz of seed 0)",
        "other queries: their ids differ, compared with",
        "number differs (20 and 60)",
    ):
        assert reason in table.notes[-1]
    assert interval(row(table, "B"), "t2v R@1") is None
    assert interval(row(table, "D"), "t2v R@1") is not None
    assert {row(table, "D").from_best["t2v R@1"], row(table, "E").from_full["t2v R@1"]} == {None}
    assert known(row(table, "C").from_full["t2v R@1"]).p_holm <= 1


def test_nothing_is_compared_with_a_best_row_that_says_no_queries(runs: list[Run]) -> None:
    ranks_beside(runs[1].path).unlink()
    table = compared(*runs)
    assert row(table, "A").marks == ["unpaired"]
    best = [title for title, value in row(table, "C").from_best.items() if value is None]
    assert "Rsum" in best
    assert known(row(table, "C").from_full["Rsum"]).delta < 0
    assert row(table, "C").marks == []


def test_a_table_of_records_alone_says_so(runs: list[Run]) -> None:
    for one in runs:
        ranks_beside(one.path).unlink()
    table = compared(*runs)
    assert {tuple(one.marks) for one in table.rows} == {("unpaired",)}
    assert not any(note.startswith("95 %") for note in table.notes)
    assert table.notes[-1].endswith("Full, A, B, C (no ranks.npz of seed 0).")
    assert build_tables(runs)[0].rows[0].values == table.rows[0].values


def test_what_is_kept_changes_nothing(tmp_path: Path, runs: list[Run]) -> None:
    alone = compared(*runs)
    for _ in range(2):
        assert compared(*runs, cache=tmp_path / "cache") == alone


# --- figures that do not follow from ranks


def test_forged_figures_and_ranks_are_rejected(tmp_path: Path, runs: list[Run]) -> None:
    forged = runs[1]
    forged.record["eval"]["t2v"]["R1"] += 5
    write_result(forged.path, forged.record)
    cut = ranks_beside(runs[2].path)
    cut.write_bytes(cut.read_bytes()[:-100])
    runs[2].record["integrity"]["ranks_sha256"] = file_sha256(cut)
    write_result(runs[2].path, runs[2].record)
    ranks_beside(runs[3].path).unlink()
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = verified(collect([tmp_path]), cache)
        assert [run.record["model"]["method"] for run in found.runs] == ["C", "Full"]
        assert [item.path for item in found.rejected] == [runs[1].path, runs[2].path]
        assert "t2v.R1 is" in found.rejected[0].reason
        assert "but ranks.npz gives" in found.rejected[0].reason
        assert found.rejected[1].reason.startswith("ranks.npz: is damaged")


def test_figures_are_checked_once(tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(run: Run) -> Any:
        raise AssertionError("known to be right")

    found = Collection(runs, [])
    assert verified(found, tmp_path / "cache").runs == runs
    monkeypatch.setattr(verification, "read_queries", unread)
    assert verified(found, tmp_path / "cache").runs == runs
    runs[0].record["eval"]["rsum"] += 1
    with pytest.raises(AssertionError, match="known to be right"):
        verified(found, tmp_path / "cache")


def test_a_report_is_written_once_and_again_when_something_changed(
    tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(runs[0].path).parents[1]
    output = tmp_path / "out"
    command = [str(folder), f"--output={output}"]
    assert report.run(command) == 0
    first = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.rglob("*.*") if path.is_file()}
    assert b"no ranks.npz" not in first["leaderboard.md"][1]
    assert report.run(command) == 0
    page = output / "leaderboard.md"
    assert (page.stat().st_mtime_ns, page.read_bytes()) == first["leaderboard.md"]
    page.write_text("somebody's own")
    assert report.run(command) == 0
    assert page.read_bytes() == first["leaderboard.md"][1]
    for kept in (output / ".cache").iterdir():
        kept.write_bytes(b"no cache")
    assert report.run(command) == 0
    assert page.read_bytes() == first["leaderboard.md"][1]
    ranks_beside(runs[0].path).unlink()
    assert report.run([*command, "--strict"]) == 0
    assert b"no ranks.npz of seed 0" in page.read_bytes()
