"""Counts, whose errors are the better the lower they are, in every part of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from petl_bench.report.best import Standing, best_of, standing
from petl_bench.report.collect import Collection, Run
from petl_bench.report.compare import compare
from petl_bench.report.comparison import with_statistics
from petl_bench.report.details import Beside, hardest
from petl_bench.report.figures import Forest, Scatter, Shares, plots_of
from petl_bench.report.model import Table, Value
from petl_bench.report.queries import read_queries
from petl_bench.report.reproduction import state_of
from petl_bench.report.summary import summarise_tables
from petl_bench.report.tables import build_tables
from petl_bench.report.verification import verified
from petl_bench.runs.record import read_result
from tests.answered import answers
from tests.records import make_record, write_record

ANSWERS = np.random.default_rng(0).choice([0, 2, 3, 4, 10], 60)
DIGITS = {"Full": "a", "AdaptFormer": "b", "LoRA": "d"}


def counted(folder: Path, method: str, off: int, dataset: str = "tgif-count") -> Run:
    """A run that is right about a third of its questions, and off by so much about the others."""
    right = np.random.default_rng(off).random(len(ANSWERS)) < 1 / 3
    given = np.where(right, np.maximum(ANSWERS, 1), np.clip(ANSWERS + np.where(ANSWERS > 5, -off, off), 1, 10))
    errors, raw = (((given - targets) ** 2).astype(float) for targets in (np.maximum(ANSWERS, 1), ANSWERS))
    rows = range(len(ANSWERS))
    arrays = {
        "squared_error": errors,
        "squared_error_raw": raw,
        "prediction": given.astype(str),
        "answers": ANSWERS.astype(str),
        "text_video": np.array(rows),
        "video_id": np.array([f"g{row}" for row in rows]),
        "text_id": np.array([f"COUNT{row}" for row in rows]),
    }
    figures = {"mse": float(errors.mean()), "mse_raw": float(raw.mean()), "n": len(rows), "cost": {"clips_per_s": 3.0}}
    record = make_record(
        eval=figures,
        model__method=method,
        id__config_hash=DIGITS[method] * 64,
        protocol__dataset=dataset,
        model__trainable_params=1000 * off,
    )
    return write_record(folder / dataset / method, arrays, record)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("counts")
    return [counted(folder, method, off) for method, off in (("Full", 2), ("AdaptFormer", 1), ("LoRA", 4))]


@pytest.fixture(scope="module")
def table(runs: list[Run]) -> Table:
    (found,) = with_statistics(build_tables(runs), None)
    return found


def test_the_lowest_is_the_best_and_stands_first(table: Table) -> None:
    assert table.main == "MSE"
    assert [row.method for row in table.rows] == ["Full", "AdaptFormer", "LoRA"], "references first, then the best"
    best = best_of(table)
    standings = {row.method: standing(row, table.main_column, best) for row in table.rows}
    assert (standings["AdaptFormer"], standings["LoRA"]) == (Standing.BEST, Standing.WORSE)
    assert [note for note in table.notes if "less is better" in note]


def test_differences_have_the_sign_of_the_figure_and_both_figures_have_intervals(table: Table) -> None:
    full, adapter, lora = table.rows
    difference = lora.from_full["MSE"]
    assert difference is not None
    assert difference.delta > 0 > difference.delta - 100
    assert difference.distinguishable
    for row in (full, adapter, lora):
        for title in ("MSE", "MSE raw"):
            value = row.values[title]
            assert value is not None
            assert value.interval is not None
            assert value.interval.low <= value.mean <= value.interval.high


def test_plots_know_what_is_better(table: Table) -> None:
    plots = {plot.name: plot for plot in plots_of(table, Beside())}
    scatter, forest, overlap = plots["parameters"], plots["forest"], plots["overlap"]
    assert isinstance(scatter, Scatter)
    assert {point.label for point in scatter.points if point.front} == {"AdaptFormer"}
    assert isinstance(forest, Forest)
    assert [bar.label for bar in forest.bars] == ["AdaptFormer", "LoRA"]
    assert isinstance(overlap, Shares)
    assert "counted exactly" in overlap.caption
    assert overlap.total == len(ANSWERS)


def test_a_summary_ranks_the_lowest_first_and_relates_by_the_inverse(tmp_path: Path, runs: list[Run]) -> None:
    others = [counted(tmp_path, method, off, "other") for method, off in (("Full", 2), ("AdaptFormer", 1), ("LoRA", 4))]
    rows = {row.method: row for row in summarise_tables(build_tables([*runs, *others]))}
    assert {name: row.rank for name, row in rows.items()} == {"AdaptFormer": 1.0, "Full": 2.0, "LoRA": 3.0}
    worse, better = rows["LoRA"].relative, rows["AdaptFormer"].relative
    assert worse is not None
    assert better is not None
    assert worse < 1 < better


def test_two_runs_query_by_query(runs: list[Run]) -> None:
    full, adapter, _ = runs
    found = compare(full.path, adapter.path)
    assert [figure.name for figure in found.figures] == ["MSE", "MSE raw"]
    assert found.figures[0].delta == pytest.approx(adapter.record["eval"]["mse"] - full.record["eval"]["mse"])
    gains = [change.a - change.b for change in found.changed]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0
    assert sum(found.overlap["counts"].values()) == len(ANSWERS)


def test_the_hardest_queries_are_those_with_the_largest_errors(runs: list[Run]) -> None:
    queries = read_queries(runs[2])["counts"]
    found = [query.error for query in hardest(queries)]
    assert found == sorted(found, reverse=True, key=lambda error: error or 0)
    assert queries.errors is not None
    assert found[0] == queries.errors[:, 0].max()


def test_figures_that_the_errors_do_not_give_are_rejected(tmp_path: Path) -> None:
    run = counted(tmp_path, "LoRA", 4)
    assert not verified(Collection([run], []), None).rejected
    record = read_result(run.path)
    record["eval"]["mse_raw"] += 0.5
    (rejected,) = verified(Collection([run._replace(record=record)], []), None).rejected
    assert "mse_raw is" in rejected.reason
    assert "one of them is forged" in rejected.reason


def test_counts_and_answers_stand_in_no_table_together(tmp_path: Path, runs: list[Run]) -> None:
    other = answers(tmp_path, [1.0, 0.0], ["how", "how"], [0, 1], protocol__dataset="tgif-count")
    assert len(build_tables([*runs, other])) == 2


def test_a_published_error_is_near_within_a_tenth() -> None:
    assert state_of(Value(4.3, None, 1), 4.22, "yes", "MSE") == "within band"
    assert state_of(Value(4.4, None, 1), 4.22, "yes", "MSE") == "off"
    assert state_of(Value(51.0, None, 1), 51.96, "yes", "Accuracy") == "within band"
