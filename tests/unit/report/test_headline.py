"""A dataset whose official figure is the mean of types has its tables in the order of that, with its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from petl_bench.report.collect import Run
from petl_bench.report.comparison import with_statistics
from petl_bench.report.details import Beside
from petl_bench.report.figures import plots_of
from petl_bench.report.intervals import Statistics
from petl_bench.report.tables import build_tables
from petl_bench.report.terminal import print_tables
from petl_bench.runs.figures import print_figures
from petl_bench.runs.record import write_result
from tests.answered import answers
from tests.bootstrap import bootstrap

MANY, FEW = 60, 20
TYPES = ["sequence"] * MANY + ["feasibility"] * FEW
VIDEOS = list(range(MANY + FEW))


def run(folder: Path, of_many: float, of_few: float, official: bool = True, **overrides: object) -> Run:
    """A run that gets these shares of either type right."""
    scores = [float(place < of_many * MANY) for place in range(MANY)] + [
        float(place < of_few * FEW) for place in range(FEW)
    ]
    made = answers(folder, scores, TYPES, VIDEOS, **overrides)
    made.record["eval"]["mean_of_types"] = 50 * (of_many + of_few)
    if official:
        made.record["protocol"]["headline"] = "mean_of_types"
    write_result(made.path, made.record)
    return made


def two(tmp_path: Path, official: bool = True) -> list[Run]:
    """The first is better over all questions, the second in the mean of types."""
    return [
        run(tmp_path / "a", 0.8, 0.2, official, model__method="Common", id__config_hash="b" * 64),
        run(tmp_path / "b", 0.6, 0.6, official, model__method="Even", id__config_hash="c" * 64),
    ]


def test_rows_are_in_its_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table,) = build_tables(two(tmp_path / "official"))
    assert table.main == "Mean of types"
    assert [column.title for column in table.quality][:2] == ["Mean of types", "Accuracy"]
    assert [row.method for row in table.rows] == ["Even", "Common"]
    print_tables([table])
    told = capsys.readouterr().out
    assert told.index("Mean") < told.index("Accuracy")
    (table,) = build_tables(two(tmp_path / "other", official=False))
    assert table.main == "Accuracy"
    assert [row.method for row in table.rows] == ["Common", "Even"]


def test_it_has_an_interval_and_a_test(tmp_path: Path) -> None:
    runs = two(tmp_path)
    found = Statistics(None).intervals(runs[:1])
    values = np.array([100.0 * (place < 48) for place in range(MANY)] + [100.0 * (place < 4) for place in range(FEW)])
    assert found["Accuracy"] == pytest.approx(bootstrap([values], np.array(VIDEOS), "mean"))
    low, high = found["Mean of types"]
    assert low < 50 < high
    # each type is a sample of its own: variances of their means add up
    deviation = 50 * np.sqrt(0.8 * 0.2 / MANY + 0.2 * 0.8 / FEW)
    assert (low, high) == pytest.approx((50 - 1.96 * deviation, 50 + 1.96 * deviation), abs=1.5)
    (pairs,) = Statistics(None).differences(runs[:1], [(runs[1:], ["Mean of types", "Accuracy"])])
    assert isinstance(pairs, dict)
    assert pairs["Mean of types"].delta == pytest.approx(-10)
    assert pairs["Accuracy"].delta == pytest.approx(5)
    assert pairs["Mean of types"].test == "sign-flip"
    (table,) = with_statistics(build_tables(runs), None)
    common = next(row for row in table.rows if row.method == "Common")
    difference = common.from_best["Mean of types"]
    assert difference is not None
    assert difference.interval.low < difference.delta < difference.interval.high


def test_plots_say_what_is_right(tmp_path: Path) -> None:
    runs = [run(tmp_path / "full", 0.5, 0.5, model__method="FullFinetuning", id__config_hash="a" * 64), *two(tmp_path)]
    plots = {plot.name: plot for plot in plots_of(build_tables(runs)[0], Beside())}
    assert plots["overlap"].caption.startswith("Queries answered right")


def test_groups_of_types_have_no_interval_of_it(tmp_path: Path) -> None:
    made = run(tmp_path, 0.8, 0.2)
    with np.load(made.path.with_name("ranks.npz")) as arrays:
        grouped = dict(arrays) | {"question_group": np.array(["all"] * len(TYPES))}
    np.savez(made.path.with_name("ranks.npz"), allow_pickle=False, **grouped)
    made.record["integrity"]["ranks_sha256"] = None
    assert "Mean of types" not in Statistics(None).intervals([made])


def test_it_is_printed_first(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"accuracy": 60.0, "n": 4, "per_type": {"a": 70.0}, "n_per_type": {"a": 4}, "mean_of_types": 50.0}
    record |= {"chance": 25.0}
    orders = []
    for headline in ("accuracy", "mean_of_types"):
        print_figures("figures", record, headline)
        words = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line]
        orders.append([word for word in words if word != "questions"])
    assert orders == [["all", "a", "mean of types", "chance"], ["mean of types", "all", "a", "chance"]]
