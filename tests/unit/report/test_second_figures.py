"""Figures beside the plain ones: in columns of their own, and no ground for another table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from petl_bench.report.boards import board_of
from petl_bench.report.collect import collect
from petl_bench.report.details import Beside
from petl_bench.report.document import document_schema, render_document
from petl_bench.report.duplicates import settled
from petl_bench.report.latex import render_second, render_table
from petl_bench.report.markdown import render_markdown
from petl_bench.report.sheets import render_tidy, render_wide
from petl_bench.report.terminal import print_tables
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
    document = json.loads(render_document(report))
    jsonschema.validate(document, document_schema())
    assert document["tables"][0]["rows"][0]["values"]["nDCG@10: t2v"]["mean"] == 54.3
    latex = render_second(report.tables[0])
    assert latex is not None
    assert r"\multicolumn{4}{c}{Dual softmax (T 1)} & \multicolumn{2}{c}{nDCG@10}" in latex
    assert r"\cmidrule(lr){2-5} \cmidrule(lr){6-7}" in latex
    assert r"LoRA & 47.8 & 80.0 & 90.0 & 1 & 54.3 & 1 \\" in latex
    assert "Dual softmax" not in render_table(report.tables[0])
    board = board_of(report.tables[0], Beside(), {Path("runs/0/result.json"): "#0"})
    assert [group["name"] for group in board["groups"] if group["name"]][-3:] == [
        "Dual softmax (T 1)",
        "nDCG@10",
        "Costs",
    ]


def test_the_terminal_shows_them_apart(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(tables_of(named("LoRA", "a", eval__second_figures=[second()])))
    plain, beside = capsys.readouterr().out.split("beside these: Dual softmax (T 1)")
    assert "47.8" not in plain
    assert "47.8" in beside


def test_a_narrow_terminal_gets_one_of_each_direction(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = second()
    both["directions"] |= {"v2t": dict.fromkeys(both["directions"]["t2v"], 99.0)}
    tables = tables_of(*(named("LoRA", "a", id__seed=seed, eval__second_figures=[both]) for seed in range(3)))
    monkeypatch.setenv("COLUMNS", "60")
    print_tables(tables)
    shown = capsys.readouterr().out.split("beside these")[1]
    assert "47.8 ± 0.0" in shown
    assert "80.0" not in shown
    assert "99.0 ± 0.0" in shown
    assert "LoRA" in shown


def test_seeds_are_those_that_have_them() -> None:
    plain, with_second = named("LoRA", "a", id__seed=1), named("LoRA", "a", id__seed=2, eval__second_figures=[second()])
    report = report_of(plain, with_second)
    assert "| LoRA | 47.8 | 80.0 | 90.0 | 1 |" in render_markdown(report)
    links = {run.path: "#" for run in report.tables[0].rows[0].runs}
    ((cells,),) = ([row["cells"] for row in board_of(table, Beside(), links)["rows"]] for table in report.tables)
    assert "Dual softmax (T 1): t2v R@1: of 1 of 2 seeds" in [cell.tip for cell in cells]


def test_papers_have_no_file_of_none() -> None:
    assert render_second(tables_of(named("LoRA", "a"))[0]) is None


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
    ((run,), rejected) = settled(collect([tmp_path]))
    assert [item.reason for item in rejected] == (
        [] if beside else [f"says the same as {folder / 'result.json'}, which is shown"]
    )
    assert run.record["kind"] == "fit"
    assert [item["title"] for item in run.record["eval"]["second_figures"]] == ["Dual softmax (T 1)"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"eval__t2v__R1": 41.0}, "metrics differ from those of result.json"),
        ({"integrity__adapter_sha256": "9" * 64}, "they are not of the adapter of result.json"),
        ({"protocol__selection": "best-val"}, "data or settings are not those of result.json"),
        ({"status": "interrupted"}, "status is 'interrupted', not 'complete'"),
        ({"env__dirty": True}, "measured with uncommitted changes, unlike the run"),
        ({"eval__second_figures": [second("FIRE (12345678)", C1=1.0)]}, "FIRE (12345678) differ from those of"),
    ],
)
def test_a_test_of_something_else_adds_nothing_and_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write_result(tmp_path / "result.json", make_record(eval__second_figures=[second("FIRE (12345678)", C1=2.0)]))
    test = make_record(**{"kind": "test", "eval__second_figures": [second()]} | change)
    write_result(tmp_path / "test.json", test)
    ((run,), (left_out,)) = settled(collect([tmp_path]))
    assert [item["title"] for item in run.record["eval"]["second_figures"]] == ["FIRE (12345678)"]
    assert left_out.path.name == "test.json"
    assert left_out.reason.startswith(f"its second figures are left out: {told}")


def test_a_test_on_other_data_has_no_part_in_them(tmp_path: Path) -> None:
    elsewhere = {"protocol__dataset": "rtime", "protocol__id": "rtime-hard/v1", "id__config_hash": "e" * 64}
    write_result(tmp_path / "result.json", make_record())
    write_result(tmp_path / "test.json", make_record(kind="test", eval__second_figures=[second()]))
    write_result(tmp_path / "test_rtime-hard-v1_retrieval.json", make_record(kind="test", **elsewhere))
    runs, rejected = settled(collect([tmp_path]))
    found = {run.path.name: bool(run.record["eval"].get("second_figures")) for run in runs}
    assert found == {"result.json": True, "test_rtime-hard-v1_retrieval.json": False}
    assert rejected == []


@pytest.mark.parametrize("content", ["[]", json.dumps(make_record(kind="test", eval__t2v__R1=41.0))])
def test_what_has_no_second_figures_is_no_matter_of_a_report(tmp_path: Path, content: str) -> None:
    write_result(tmp_path / "result.json", make_record())
    (tmp_path / "test.json").write_text(content, encoding="utf-8")
    assert settled(collect([tmp_path])).rejected == []


def test_those_that_contradict_each_other_are_rejected(tmp_path: Path) -> None:
    for name, figure in (("a", second(R1=47.0)), ("b", second(R1=48.0))):
        (tmp_path / name).mkdir()
        write_result(tmp_path / name / "result.json", make_record(eval__second_figures=[figure]))
    runs, rejected = settled(collect([tmp_path]))
    assert (len(runs), len(rejected)) == (0, 2)
    assert rejected[0].reason.endswith("have different Dual softmax (T 1)")


@pytest.mark.parametrize("broken", [{"title": ""}, {"directions": {}}, {"directions": {"v2a": {"n": 1}}}, {"more": 1}])
def test_the_schema_refuses_what_is_none(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(FileError):
        write_result(tmp_path / "result.json", make_record(eval__second_figures=[second() | broken]))
