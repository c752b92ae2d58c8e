"""What is best, what cannot be told from it and what nobody tested look the same in every format."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from petl_bench.report.best import Standing, best_of, leading, standing
from petl_bench.report.collect import Collection, Run
from petl_bench.report.details import Beside
from petl_bench.report.document import as_document
from petl_bench.report.figures import Forest, Scatter, plots_of
from petl_bench.report.latex import render_table
from petl_bench.report.leaderboard import build_report
from petl_bench.report.markdown import render_block
from petl_bench.report.model import Difference, Interval, Report, Row
from petl_bench.report.page import Pages
from petl_bench.report.sheets import render_wide
from petl_bench.report.tables import full_finetuning
from petl_bench.report.thumbnails import Clips
from petl_bench.runs.record import ranks_beside
from tests.answered import retrieval

TITLE = "t2v R@1"
VIDEOS = 40
#: hits among the first of 40
HITS = {"Full": 20, "Best": 30, "Close": 28, "Far": 3}


def run(folder: Path, method: str, hits: int, videos: int = VIDEOS, **overrides: Any) -> Run:
    ranks = [1 if video < hits else 20 for video in range(videos)]
    names = [f"video{number}" for number in range(videos)]
    digest = (method * 64).encode().hex()[:64]
    about = {"model__method": method, "id__config_hash": digest, "protocol__dataset": "d"}
    return retrieval(folder / method, ranks, ranks, names=names, **{**about, **overrides})


def report_of(*runs: Run) -> Report:
    return build_report(Collection(list(runs), []))


def partial(folder: Path, method: str) -> Run:
    cut = {"protocol__partial": True, "protocol__n_found": 5, "protocol__n_expected": VIDEOS}
    return run(folder, method, 5, videos=5, **cut)


def shown(report: Report) -> dict[str, dict[str, str]]:
    """By format, how each row's first figure stands to the best one."""
    (table,) = report.tables
    found: dict[str, dict[str, str]] = {name: {} for name in ("Markdown", "LaTeX", "HTML", "CSV", "JSON")}
    page = Pages(report, Beside(), Clips()).index()
    sheet = {line["name"]: line for line in csv.DictReader(render_wide([table]).splitlines())}
    document = {row["name"]: row for row in as_document(report)["tables"][0]["rows"]}
    for row in table.rows:
        cell = next(line for line in render_block(report).splitlines() if line.startswith(f"| {row.name} |"))
        cell = cell.split(" | ")[2]
        found["Markdown"][row.name] = _read(cell, r"\*\*", "†", "‡")
        lines = {line.split(" & ")[0]: line.split(" & ") for line in render_table(table).splitlines()}
        cell = lines[row.name][lines["Method"].index(TITLE)]
        found["LaTeX"][row.name] = _read(cell, "textbf", "underline", "ddagger")
        cell = page.split(f'<tbody id="{table.id}-{row.config_hash[:12]}"')[1].split('<td class="n', 1)[1]
        found["HTML"][row.name] = _read(cell.split("</td>")[0], "<b>", 'class="u"', "‡")
        found["CSV"][row.name] = sheet[row.name][f"{TITLE} to best"]
        found["JSON"][row.name] = document[row.name]["to_best"][TITLE]
    return found


def _read(cell: str, *marks: str) -> str:
    names = ("best", "not distinguishable", "not tested")
    (found,) = [name for name, mark in zip(names, marks, strict=True) if re.search(mark, cell)] or ["worse"]
    return found


def everywhere(report: Report, expected: dict[str, str]) -> None:
    for name, found in shown(report).items():
        assert found == expected, name


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [run(tmp_path, method, hits) for method, hits in HITS.items()]


def test_close_worse_and_best(runs: list[Run]) -> None:
    expected = {"Full": "worse", "Best": "best", "Close": "not distinguishable", "Far": "worse"}
    everywhere(report_of(*runs), expected)


def test_what_was_not_tested_does_not_look_worse(runs: list[Run]) -> None:
    """The best row has no ranks: nothing says that others are worse."""
    ranks_beside(runs[1].path).unlink()
    report = report_of(*runs)
    everywhere(report, {"Full": "not tested", "Best": "best", "Close": "not tested", "Far": "not tested"})
    assert "‡: not tested against it" in render_block(report).replace("\n", " ")
    assert "double dagger: not tested" in render_table(report.tables[0])
    page = Pages(report, Beside(), Clips()).index()
    assert "‡ was not tested against it" in page
    assert "medians (MdR) are never tested" in page


def test_of_equal_best_rows_one_that_says_its_queries_is_compared_with(tmp_path: Path, runs: list[Run]) -> None:
    twin = run(tmp_path, "Aaa", HITS["Best"])
    ranks_beside(twin.path).unlink()
    expected = {"Aaa": "best", "Full": "worse", "Best": "best", "Close": "not distinguishable", "Far": "worse"}
    everywhere(report_of(*runs, twin), expected)


def test_a_row_that_cannot_be_paired_does_not_look_worse(runs: list[Run]) -> None:
    ranks_beside(runs[3].path).unlink()
    expected = {"Full": "worse", "Best": "best", "Close": "not distinguishable", "Far": "not tested"}
    everywhere(report_of(*runs), expected)


def test_a_partial_test_is_not_the_best(tmp_path: Path, runs: list[Run]) -> None:
    report = report_of(*runs, partial(tmp_path, "Part"))
    (table,) = report.tables
    expected = {"Full": "worse", "Best": "best", "Close": "not distinguishable", "Far": "worse", "Part": "not tested"}
    everywhere(report, expected)
    part = next(row for row in table.rows if row.name == "Part")
    value = part.values[TITLE]
    assert value is not None
    assert value.mean == 100.0, "it would be"
    assert "partial 5/40" in part.marks


def test_a_partial_test_is_no_reference_and_on_no_front(tmp_path: Path, runs: list[Run]) -> None:
    part = partial(tmp_path, "FullFineTuning")
    (table,) = report_of(*runs, part).tables
    assert table.rows[0].partial, "it is shown first"
    reference = full_finetuning(table)
    assert reference is not None
    assert reference.name == "Full"
    assert all(row.from_full[TITLE] for row in table.rows if row.name in ("Best", "Close", "Far"))
    drawn = [plot for plot in plots_of(table, Beside()) if isinstance(plot, Scatter)]
    assert drawn
    for plot in drawn:
        points = {point.label: point for point in plot.points}
        assert (points["FullFineTuning"].front, points["FullFineTuning"].faint) == (False, True)
        assert points["Best"].front
        assert "Hollow: a partial test" in plot.caption


def test_equal_rows_stand_out_nowhere(tmp_path: Path) -> None:
    report = report_of(run(tmp_path, "A", 7), run(tmp_path, "B", 7))
    for found in shown(report).values():
        assert set(found.values()) <= {"worse", ""}, "no mark"
    assert best_of(report.tables[0]) == {}


def test_all_of_equal_best_rows_are_bold(tmp_path: Path) -> None:
    everywhere(
        report_of(run(tmp_path, "A", 30), run(tmp_path, "B", 30), run(tmp_path, "C", 2)),
        {"A": "best", "B": "best", "C": "worse"},
    )


@pytest.mark.parametrize(
    ("p", "low", "expected"),
    [(0.01, 0.5, True), (0.01, -0.5, False), (0.01, 0.0, False), (0.06, 0.5, False), (0.05, 0.5, True)],
)
def test_test_and_interval_must_agree(runs: list[Run], p: float, low: float, expected: bool) -> None:
    """Signs are flipped by query: seeds that differ are in the interval alone."""
    difference = Difference(2.0, Interval(low, 4.0), p, p, "sign-flip")
    assert difference.distinguishable is expected
    report = report_of(*runs)
    (table,) = report.tables
    rows = [_with(row, difference) if row.name == "Far" else row for row in table.rows]
    report = replace(report, tables=[replace(table, rows=rows)])
    words = "worse" if expected else "not distinguishable"
    assert {found["Far"] for found in shown(report).values()} == {words}
    (forest,) = (plot for plot in plots_of(report.tables[0], Beside()) if isinstance(plot, Forest))
    assert {bar.label: bar.clear for bar in forest.bars}["Far"] is expected
    far = next(row for row in as_document(report)["tables"][0]["rows"] if row["name"] == "Far")
    assert far["from_full"][TITLE]["distinguishable"] is expected


def _with(row: Row, difference: Difference) -> Row:
    return replace(row, from_best=row.from_best | {TITLE: difference}, from_full=row.from_full | {TITLE: difference})


def test_lower_ranks_are_the_best_and_medians_are_not_tested(runs: list[Run]) -> None:
    (table,) = report_of(*runs).tables
    column = {column.title: column for column in table.columns}
    best = best_of(table)
    assert best["t2v MnR"] == min(_mean(row, "t2v MnR") for row in table.rows)
    worst = next(row for row in table.rows if row.name == "Far")
    assert standing(worst, column["t2v MdR"], best) is Standing.UNTESTED
    assert [row.name for row in leading(table.rows, column["t2v MnR"])] == ["Best"]


def _mean(row: Row, title: str) -> float:
    value = row.values[title]
    assert value is not None
    return value.mean


def test_hardware_stands_in_every_complete_format(tmp_path: Path) -> None:
    report = report_of(
        run(tmp_path, "A", 7, env__gpu="H200", env__gpu_count=2), run(tmp_path, "B", 9, env__gpu=None, env__cpu="Xeon")
    )
    (table,) = report.tables
    expected = {"A": "2 x H200", "B": "CPU Xeon"}
    assert {line["name"]: line["hardware"] for line in csv.DictReader(render_wide([table]).splitlines())} == expected
    rows = as_document(report)["tables"][0]["rows"]
    assert {row["name"]: row["hardware"] for row in rows} == {name: [words] for name, words in expected.items()}
    page = Pages(report, Beside(), Clips()).index()
    for words in expected.values():
        assert f"measured on {words} ·" in page
