"""Methods over datasets: what is missing stays missing, and nothing made up is counted with what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from petl_bench.report.model import SummaryRow
from petl_bench.report.summary import summarise_tables
from tests.reports import named, tables_of

DIGITS = {"Full": "a", "AdaptFormer": "b", "LoRA": "d"}


def record(dataset: str, method: str, score: float, **more: Any) -> dict[str, Any]:
    digit = more.pop("digit", DIGITS.get(method, "e"))
    place = {"protocol__dataset": dataset, "protocol__id": f"{dataset}/v1"}
    return named(method, digit, eval__t2v__R1=score, **{**place, **more})


def summary(*records: dict[str, Any]) -> dict[str, SummaryRow]:
    rows = summarise_tables(tables_of(*records))
    named = {row.method: row for row in rows}
    assert len(named) == len(rows)
    return named


def test_relative_to_full_fine_tuning_and_rank() -> None:
    rows = summary(
        record("one", "Full", 40.0),
        record("one", "AdaptFormer", 44.0),
        record("one", "LoRA", 20.0),
        record("two", "Full", 50.0),
        record("two", "AdaptFormer", 45.0),
        record("two", "LoRA", 40.0),
    )
    assert list(rows) == ["Full", "AdaptFormer", "LoRA"], "references first"
    assert rows["Full"].relative == 1.0
    assert rows["AdaptFormer"].relative == pytest.approx((1.1 + 0.9) / 2)
    assert rows["LoRA"].relative == pytest.approx((0.5 + 0.8) / 2)
    assert {name: row.rank for name, row in rows.items()} == {"Full": 1.5, "AdaptFormer": 1.5, "LoRA": 3.0}
    assert {row.among for row in rows.values()} == {3}


def test_a_method_that_was_not_run_everywhere_is_ranked_where_it_was() -> None:
    rows = summary(
        record("one", "Full", 40.0),
        record("one", "AdaptFormer", 44.0),
        record("two", "Full", 50.0),
        record("two", "LoRA", 60.0),
        record("three", "Full", 50.0),
        record("three", "AdaptFormer", 55.0),
    )
    missing = [value for value in rows["AdaptFormer"].values.values() if value is None]
    assert len(missing) == 1
    assert (rows["AdaptFormer"].rank, rows["AdaptFormer"].among) == (1.0, 2), "LoRA is in none of its tables"
    assert (rows["LoRA"].rank, rows["LoRA"].among) == (1.0, 2)
    assert (rows["Full"].rank, rows["Full"].among) == (1.0, 1), "nothing else is in all three"


def test_equal_figures_share_a_rank() -> None:
    both = [record(dataset, method, 40.0) for dataset in ("one", "two") for method in ("Full", "LoRA")]
    assert {row.rank for row in summary(*both).values()} == {1.5}


def test_fixtures_are_never_mixed_with_measured_runs() -> None:
    rows = summarise_tables(
        tables_of(
            record("one", "Full", 40.0),
            record("two", "Full", 40.0),
            record("one", "Full", 99.0, origin="fixture"),
            record("two", "Full", 99.0, origin="fixture"),
        )
    )
    assert [row.fixture for row in rows] == [False, True]
    assert [{value.mean for value in row.values.values() if value} for row in rows] == [{40.0}, {99.0}]


def test_one_dataset_is_no_summary() -> None:
    assert summary(record("one", "Full", 40.0)) == {}
    assert summary(record("one", "Full", 40.0), record("one", "Full", 40.0, protocol__id="other")) == {}
    assert summary(record("one", "Full", 40.0), record("one", "Full", 40.0, origin="fixture")) == {}


def test_options_tell_methods_apart_and_the_best_of_equal_ones_counts() -> None:
    wide = {"model__method_config": {"bottleneck": 128, "same": 1}}
    thin = {"model__method_config": {"bottleneck": 64, "same": 1}}
    rows = summary(
        record("one", "AdaptFormer", 40.0, digit="1", **thin),
        record("one", "AdaptFormer", 41.0, digit="2", **thin),
        record("one", "AdaptFormer", 50.0, digit="3", **wide),
        record("two", "AdaptFormer", 30.0, digit="4", **thin),
    )
    assert set(rows) == {"AdaptFormer (bottleneck 64)", "AdaptFormer (bottleneck 128)"}
    assert {value.mean for value in rows["AdaptFormer (bottleneck 64)"].values.values() if value} == {41.0, 30.0}
    assert {row.relative for row in rows.values()} == {None}, "nothing to be relative to"
