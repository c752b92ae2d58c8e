"""Methods over datasets: what is missing stays missing, and nothing made up is counted with what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from petl_bench.report.model import SummaryRow
from petl_bench.report.summary import other_rows, summarise_tables
from tests.records import make_record
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


def test_options_tell_methods_apart_and_the_first_of_equal_ones_counts() -> None:
    wide = {"model__method_config": {"bottleneck": 128, "same": 1}}
    thin = {"model__method_config": {"bottleneck": 64, "same": 1}}
    rows = summary(
        record("one", "AdaptFormer", 40.0, digit="1", **thin),
        record("one", "AdaptFormer", 41.0, digit="2", **thin),
        record("one", "AdaptFormer", 50.0, digit="3", **wide),
        record("two", "AdaptFormer", 30.0, digit="4", **thin),
    )
    assert set(rows) == {"AdaptFormer (bottleneck 64)", "AdaptFormer (bottleneck 128)"}
    assert {value.mean for value in rows["AdaptFormer (bottleneck 64)"].values.values() if value} == {40.0, 30.0}
    assert {row.others for row in rows.values()} == {0, 1}
    assert {row.relative for row in rows.values()} == {None}, "nothing to be relative to"


def test_the_setting_that_counts_is_never_chosen_by_its_figures() -> None:
    """By seeds, by recipe, by configuration: the best-scoring one of a test would be too good."""
    train = make_record()["train"]
    packaged = train | {"recipe": {"name": "mine", "max_epochs": 5}, "epochs": 5.0}
    cut = packaged | {"epochs": 2.0}
    more = [record("one", "LoRA", score, digit="9", id__seed=seed) for seed, score in enumerate((20.0, 21.0))]
    rows = summary(
        record("one", "Full", 40.0, digit="a", train=train),
        record("one", "Full", 20.0, digit="b", train=packaged),
        record("one", "Full", 80.0, digit="0", train=cut),
        record("one", "LoRA", 60.0, digit="1", train=packaged),
        *more,
        record("two", "Full", 50.0),
        record("two", "LoRA", 30.0, digit="3"),
        record("two", "LoRA", 45.0, digit="4"),
    )
    assert [value and value.mean for value in rows["LoRA"].values.values()] == [20.5, 30.0]
    assert [value and value.mean for value in rows["Full"].values.values()] == [20.0, 50.0]
    assert rows["LoRA"].relative == pytest.approx((20.5 / 20.0 + 30.0 / 50.0) / 2)
    assert (rows["Full"].others, rows["LoRA"].others, other_rows(rows["LoRA"])) == (2, 2, "+2 other settings")


def test_partial_tests_are_neither_ranked_nor_a_reference() -> None:
    partial = {"protocol__partial": True, "protocol__n_found": 9, "protocol__n_expected": 1000}
    rows = summary(
        record("one", "Full", 99.0, digit="0", **partial),
        record("one", "Full", 40.0),
        record("two", "Full", 40.0),
        record("one", "LoRA", 99.0, digit="1", **partial),
        record("one", "LoRA", 30.0),
        record("two", "LoRA", 30.0),
        record("one", "Other", 99.0, digit="2", **partial),
    )
    assert set(rows) == {"Full", "LoRA"}
    assert (rows["LoRA"].relative, rows["LoRA"].rank, rows["LoRA"].others) == (0.75, 2.0, 0)
