"""Figures beside the plain ones: in columns of their own, and no ground for another table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from petl_bench.report.collect import collect
from petl_bench.report.document import render_document
from petl_bench.report.markdown import render_markdown
from petl_bench.report.sheets import render_tidy, render_wide
from petl_bench.runs.record import write_result
from petl_bench.storage.files import FileError
from tests.records import make_record
from tests.reports import named, report_of, tables_of


def second(title: str = "Dual softmax (T 1)", **figures: float) -> dict[str, Any]:
    figures = figures or {"R10": 90.0, "R1": 47.8, "R5": 80.0, "MdR": 1.0}
    return {
        "name": "dual_softmax",
        "title": title,
        "settings": {"temperature": 1.0, "axis": "captions"},
        "directions": {"t2v": {**figures, "n": 1000}},
    }


def test_they_have_columns_of_their_own_and_plain_ones_are_what_they_were() -> None:
    plain, with_second = named("LoRA", "a"), named("LoRA", "b", eval__second_figures=[second()])
    (alone,), (table,) = tables_of(plain), tables_of(plain, with_second)
    titles = [column.title for column in table.columns]
    new = ["Dual softmax (T 1): t2v R@1", "Dual softmax (T 1): t2v R@5", "Dual softmax (T 1): t2v R@10"]
    assert [title for title in titles if title not in new] == [column.title for column in alone.columns]
    assert [column.title for column in table.columns if column.kind == "second"] == new
    by_hash = {row.config_hash[0]: row.values for row in table.rows}
    assert by_hash["a"][new[0]] is None
    assert by_hash["b"][new[0]].mean == 47.8  # type: ignore[union-attr]
    assert by_hash["a"]["t2v R@1"] == by_hash["b"]["t2v R@1"]


def test_other_settings_are_other_columns() -> None:
    rows = named("LoRA", "a", eval__second_figures=[second()]), named("LoRA", "b", eval__second_figures=[second("T 2")])
    (table,) = tables_of(*rows)
    found = [{title for title, value in row.values.items() if value and ":" in title} for row in table.rows]
    assert not found[0] & found[1]
    assert all(found)


def test_every_format_names_them() -> None:
    report = report_of(named("LoRA", "a", eval__second_figures=[second(), second("nDCG@10", nDCG10=54.3)]))
    text = render_markdown(report)
    assert "| Method | t2v R@1 | t2v R@5 | t2v R@10 | Seeds |" in text
    assert "| LoRA | 47.8 | 80.0 | 90.0 | 1 |" in text
    assert "| LoRA | 54.3 | 1 |" in text
    assert "nDCG@10" in text
    (line,) = csv.DictReader(io.StringIO(render_wide(report.tables)))
    assert float(line["nDCG@10: t2v"]) == 54.3
    assert "eval.second_figures.nDCG@10.t2v.nDCG10" in render_tidy(report.tables)
    assert "nDCG@10: t2v" in json.dumps(render_document(report))


@pytest.mark.parametrize("beside", [True, False])
def test_a_later_test_adds_its_own_to_the_run(tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_result(folder / "result.json", make_record())
    test = make_record(kind="test", train=None, eval__second_figures=[second()], eval__cost={"clips_per_s": 9.0})
    if beside:
        write_result(folder / "test.json", test)
    else:
        (tmp_path / "test").mkdir()
        write_result(tmp_path / "test" / "result.json", test)
    ((run,), rejected) = collect([tmp_path])
    assert not rejected
    assert run.record["kind"] == "fit"
    assert [item["title"] for item in run.record["eval"]["second_figures"]] == ["Dual softmax (T 1)"]


@pytest.mark.parametrize(
    "change", [{"eval__t2v__R1": 41.0}, {"integrity__adapter_sha256": "9" * 64}, {"protocol__selection": "best-val"}]
)
def test_a_test_of_something_else_adds_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    write_result(tmp_path / "result.json", make_record())
    write_result(tmp_path / "test.json", make_record(kind="test", eval__second_figures=[second()], **change))
    ((run,), _) = collect([tmp_path])
    assert "second_figures" not in run.record["eval"]


def test_those_that_contradict_each_other_are_rejected(tmp_path: Path) -> None:
    for name, figure in (("a", second(R1=47.0)), ("b", second(R1=48.0))):
        (tmp_path / name).mkdir()
        write_result(tmp_path / name / "result.json", make_record(eval__second_figures=[figure]))
    runs, rejected = collect([tmp_path])
    assert (len(runs), len(rejected)) == (0, 2)


@pytest.mark.parametrize("broken", [{"title": ""}, {"directions": {}}, {"directions": {"v2a": {"n": 1}}}, {"more": 1}])
def test_the_schema_refuses_what_is_none(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(FileError):
        write_result(tmp_path / "result.json", make_record(eval__second_figures=[second() | broken]))
