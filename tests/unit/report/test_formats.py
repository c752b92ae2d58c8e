"""Every format says the same numbers: each is read back, and holds what the report holds."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from petl_bench.report.cells import mean_and_deviation, number
from petl_bench.report.collect import Collection, Rejected
from petl_bench.report.document import SCHEMA, document_schema, render_document
from petl_bench.report.latex import escape_latex, render_table
from petl_bench.report.leaderboard import build_report, rendered
from petl_bench.report.markdown import MOST_COLUMNS, render_block, render_markdown
from petl_bench.report.model import PublishedFigure, Report, Row, Table
from petl_bench.report.sheets import render_wide
from tests.records import make_record
from tests.reports import named, report_of, runs_of, with_intervals

ANSWERS = {
    "accuracy": 41.25,
    "per_type": {"what": 33.0, "who": 50.0},
    "n": 10,
    "cost": {"clips_per_s": 7.5},
}
#: of every format: formula, table, heading, link, HTML, markup, macro, escape code, direction mark
HOSTILE = "=1+1|`x`\n## [a](http://b) <img src=x> **b** $x$ % & # _ { } ~ ^ \\input{/etc/passwd} \x1b[31m\u202e\\"


@pytest.fixture(scope="module")
def report() -> Report:
    """Two tables: retrieval with seeds, intervals and a published figure, and question answering."""
    train = make_record()["train"]
    made = report_of(
        named("Full", "a", eval__t2v__R1=41.0, model__trainable_params=149_620_737),
        named("MVAdapter", "b", eval__t2v__R1=44.5, train=train | {"wall_s": 0.1234, "clips_per_s": 1234.5}),
        named("MVAdapter", "b", id__seed=1, eval__t2v__R1=46.0, eval__v2t__MnR=13.25),
        named("ZeroShot", "d", train=None, model__trainable_params=0, model__adapter_bytes=None),
        named("Answers", "e", eval=ANSWERS, protocol__dataset="msrvttqa", protocol__id="msrvtt-qa/v1"),
    )
    figure = PublishedFigure(46.2, "mv-adapter", "Table 1", -0.95, "unknown", "augmentation is not said")
    first, *others = with_intervals(made).tables
    rows = [
        replace(r, published={"t2v R@1": figure}, state="within band") if r.name == "MVAdapter" else r
        for r in first.rows
    ]
    return replace(made, tables=[replace(first, rows=rows), *others])


def figures(report: Report) -> list[tuple[Table, Row]]:
    return [(table, row) for table in report.tables for row in table.rows]


# --- Markdown


def unescaped(cell: str) -> str:
    """What a reader sees, without marks of emphasis."""
    return re.sub(r"\\(.)", r"\1", re.sub(r"\*\*| †| ‡", "", cell)).strip()


def grids(page: str) -> list[list[dict[str, str]]]:
    found = []
    for part in page.split("\n\n"):
        lines = part.splitlines()
        if not lines or not lines[0].startswith("| "):
            continue
        header, rule, *body = ([unescaped(c) for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
        assert set("".join(rule)) <= {":", "-"}
        assert all(len(cells) == len(header) <= MOST_COLUMNS for cells in body)
        found.append([dict(zip(header, cells, strict=True)) for cells in body])
    return found


def test_markdown_holds_the_figures(report: Report) -> None:
    read = grids(render_block(report))
    assert len(read) == 2 * len(report.tables)
    for table, quality, costs in zip(report.tables, read[::2], read[1::2], strict=True):
        for row, *cells in zip(table.rows, quality, costs, strict=True):
            shown = cells[0] | cells[1]
            assert shown["Method"] == row.name
            assert shown["Seeds"] == str(len(row.runs))
            for column in table.columns:
                expected = mean_and_deviation(row.values[column.title], column)
                if column.title == table.main:
                    value = row.values[column.title]
                    assert value is not None
                    assert value.interval is not None
                    low, high = (number(limit, column) for limit in value.interval)
                    assert shown[column.title] == f"{expected} [{low}, {high}]"
                elif column.title in shown:
                    assert shown[column.title] == expected
            missing = {column.title for column in table.columns} - shown.keys()
            assert not [
                title for title in missing if title not in ("t2v MdR", "t2v MnR", "Rsum") and "v2t" not in title
            ]
    (published,) = (cells for cells in read[0] if cells["Method"] == "MVAdapter")
    assert published["Published t2v R@1"] == "46.2 (-0.9, comparable?)"
    assert published["State"] == "within band, unpaired"
    assert published["t2v R@1"] == "45.2 ± 1.1 [42.1, 48.1]"


def test_best_is_bold_and_what_is_close_is_marked(report: Report) -> None:
    page = render_block(report)
    assert r"| **45.2 ± 1.1** † \[" not in page, "the best is not close to itself"
    assert r"| **45.2 ± 1.1** \[42.1, 48.1\] |" in page
    assert r"| 40.0 † \[36.9, 42.9\] |" in page, "ZeroShot, with a p of 0.63"
    assert r"| 41.0 ‡ \[37.9, 43.9\] |" in page, "the first row is compared with nothing"
    alone = render_block(report_of(make_record()))
    assert "**40.0**" not in alone, "one row is no best"


def test_pages_have_few_columns_and_what_is_published(report: Report) -> None:
    page = render_markdown(report)
    assert all(len(row) <= MOST_COLUMNS for grid in grids(page) for row in grid)
    assert page.count("<details>") == page.count("</details>") == len({one["source"] for one in report.published})
    states = [row["State"] for grid in grids(page) for row in grid if "Figures" in row]
    assert len(states) == len(report.published)


# --- CSV


def wide(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render_wide(report.tables))))


def test_the_wide_sheet_holds_all_of_every_row(report: Report) -> None:
    for line, (table, row) in zip(wide(report), figures(report), strict=True):
        assert (line["table"], line["name"], line["command"]) == (table.id, row.name, row.command)
        for column in table.columns:
            value, title = row.values[column.title], column.title
            if value is None:
                assert line[title] == line[f"{title} sd"] == ""
                continue
            assert float(line[title]) == value.mean
            assert line[f"{title} sd"] == ("" if value.sd is None else str(value.sd))
            assert line[f"{title} n"] == str(value.n)
            if value.interval is not None:
                assert (float(line[f"{title} low"]), float(line[f"{title} high"])) == value.interval
            if difference := row.from_best.get(title):
                assert float(line[f"{title} minus best"]) == difference.delta
                assert float(line[f"{title} minus best p"]) == difference.p
                assert float(line[f"{title} minus full p_holm"]) == difference.p_holm
            if title in row.published:
                assert float(line[f"{title} published"]) == row.published[title].value
                assert line[f"{title} published source"] == "mv-adapter, Table 1"
    assert {line["state"] for line in wide(report)} == {"", "within band", "not comparable"}, (
        "Full is published, on another protocol"
    )


# --- LaTeX


def latex_rows(text: str) -> list[dict[str, str]]:
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    header, *body = ([latex_text(cell) for cell in re.split(r"(?<!\\) & ", row)] for row in rows)
    return [dict(zip(header, cells, strict=True)) for cells in body]


def latex_text(cell: str) -> str:
    cell = re.sub(r"\\(textbf|underline)\{([^}]*)\}", r"\2", cell)
    return (
        cell.replace(r"$^{\ddagger}$", "")
        .replace(r"$\pm$", "±")
        .replace("{[}", "[")
        .replace("{]}", "]")
        .replace(r"\%", "%")
    )


def test_latex_holds_the_figures(report: Report) -> None:
    for table in report.tables:
        text = render_table(table)
        for row, shown in zip(table.rows, latex_rows(text), strict=True):
            assert shown["Method"] == row.name
            for column in table.columns:
                if column.title in shown:
                    assert shown[column.title].split(" [")[0] == mean_and_deviation(row.values[column.title], column)
        titles = latex_rows(text)[0].keys()
        assert {"Trainable M", "Peak GB", table.main} < titles
    assert r"\textbf{45.2 $\pm$ 1.1} {[}42.1, 48.1{]}" in render_table(report.tables[0])
    assert r"\underline{40.0}" in render_table(report.tables[0])
    assert "46.2 (-0.9)" in render_table(report.tables[0])


def test_escape_latex() -> None:
    assert escape_latex("a_b & 5 % \\x{~^}\n$#") == (
        r"a\_b \& 5 \% \textbackslash{}x\{\textasciitilde{}\textasciicircum{}\} \$\#"
    )


# --- JSON


def test_the_document_holds_all_of_the_report(report: Report) -> None:
    document = json.loads(render_document(report))
    Draft202012Validator(document_schema()).validate(document)
    assert document["schema"] == SCHEMA == document_schema()["$id"]
    for read, table in zip(document["tables"], report.tables, strict=True):
        assert (read["id"], read["main"], read["key"]) == (table.id, table.main, dict(table.key))
        assert [column["title"] for column in read["columns"]] == [column.title for column in table.columns]
        for shown, row in zip(read["rows"], table.rows, strict=True):
            assert (shown["name"], shown["state"], shown["marks"]) == (row.name, row.state, row.marks)
            for title, value in row.values.items():
                if value is None:
                    assert shown["values"][title] is None
                    continue
                interval = None if value.interval is None else list(value.interval)
                assert shown["values"][title] == {
                    "mean": value.mean,
                    "sd": value.sd,
                    "n": value.n,
                    "interval": interval,
                }
            for title, difference in row.from_best.items():
                assert (shown["from_best"][title] is None) == (difference is None)
                assert difference is None or shown["from_best"][title]["p_holm"] == difference.p_holm
    assert document["published"] == report.published


def test_the_schema_refuses_what_is_no_report(report: Report) -> None:
    document = json.loads(render_document(report))
    Draft202012Validator.check_schema(document_schema())
    validator = Draft202012Validator(document_schema())
    for change in ({"schema": "petl_bench.report/2"}, {"tables": [{}]}, {"more": 1}):
        assert not validator.is_valid(document | change)


# --- all of them


def test_all_formats_are_the_same_every_time(report: Report) -> None:
    assert rendered(report) == rendered(report)
    names = set(rendered(report))
    assert {"leaderboard.md", "leaderboard.csv", "wide.csv", "report.json"} < names
    assert {name for name in names if name.endswith(".tex")} == {f"tables/{table.id}.tex" for table in report.tables}


def test_a_summary_stands_in_markdown_and_json() -> None:
    both = [named("Full", d, protocol__dataset=d, protocol__id=f"{d}/v1") for d in "abcdef"]
    report = report_of(*both, named("Other", "9", protocol__dataset="b", protocol__id="b/v1", eval__t2v__R1=30.0))
    page = render_markdown(report)
    read = [row for grid in grids(page) for row in grid if "Relative" in row and row["Method"] == "Other"]
    assert len(read) == 2, "six tables are more than stand side by side"
    assert {row["Relative"] for row in read} == {"0.750"}
    assert read[0]["b/v1: t2v R@1"] == "30.0"
    assert {value for row in read for name, value in row.items() if "R@1" in name} == {"30.0", "-"}
    assert {row["Rank"] for row in read} == {"2.0 of 2"}
    document = json.loads(render_document(report))
    Draft202012Validator(document_schema()).validate(document)
    assert [row["relative"] for row in document["summary"]] == [1.0, 0.75]


def hostile_report() -> Report:
    preprocess = make_record()["protocol"]["preprocess"] | {HOSTILE: HOSTILE}
    records = (
        make_record(
            model__method=HOSTILE,
            model__backbone=HOSTILE,
            protocol__dataset=HOSTILE,
            protocol__id=HOSTILE,
            protocol__preprocess=preprocess,
            train=make_record()["train"] | {"limits": {HOSTILE: HOSTILE}},
            env__gpu=HOSTILE,
        ),
        named(HOSTILE, "e", eval=ANSWERS | {"per_type": {HOSTILE: 1.0}}, model__backbone=HOSTILE),
        named("Other", "f", protocol__dataset="other"),
    )
    return build_report(Collection(runs_of(*records), [Rejected(runs_of(records[0])[0].path / HOSTILE, HOSTILE)]))


@pytest.mark.parametrize("name", ["leaderboard.md", "leaderboard.csv", "wide.csv", "report.json", "tables/"])
def test_hostile_names_are_inert(name: str) -> None:
    report = hostile_report()
    for path, text in rendered(report).items():
        assert re.fullmatch(r"[a-z0-9./-]+", path), "a name is no path"
        assert not {"\x1b", "\u202e", "\r"} & set(text) or path == "report.json"
        if path.startswith(name):
            INERT[name](text)


def _markdown(text: str) -> None:
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if "img" in heading] == [h for h in headings if r"\[a\](http\://b)" in h]
    assert "<img" not in text
    shown = re.sub(r"\\[\\`*_\[\]|~$!]", "", text)
    assert "`x`" not in shown
    assert "](http" not in shown
    assert "**b**" not in shown
    grids(text)


def _sheet(text: str) -> None:
    for cells in csv.reader(io.StringIO(text)):
        assert not [cell for cell in cells if re.match(r"\s*[=+@]|\s*-(?!\d)", cell) and cell != "-"], cells


def _document(text: str) -> None:
    document = json.loads(text)
    Draft202012Validator(document_schema()).validate(document)
    assert HOSTILE in {table["dataset"] for table in document["tables"]}
    assert "\x1b" not in text.replace("\\u001b", "")


def _latex(text: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    assert r"\input" not in body
    assert not re.search(r"(?<!\\)[%#$](?!\\pm)", body.replace(r"$\pm$", ""))
    columns = {len(re.findall(r"(?<!\\)&", line)) for line in lines if line.endswith(r" \\")}
    assert len(columns) == 1
    depth = len(re.findall(r"(?<!\\)\{", body)) - len(re.findall(r"(?<!\\)\}", body))
    assert depth == 0


INERT: dict[str, Callable[[str], Any]] = {
    "leaderboard.md": _markdown,
    "leaderboard.csv": _sheet,
    "wide.csv": _sheet,
    "report.json": _document,
    "tables/": _latex,
}
