"""Result files of MTEB stand in a table of their own; what is none is rejected by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petl_bench.report.document import as_document, document_schema
from petl_bench.report.leaderboard import leaderboard
from petl_bench.report.markdown import render_markdown
from petl_bench.report.model import Report
from petl_bench.report.mteb import collect_mteb
from tests.records import make_record

ENTRY = {
    **{f"hit_rate_at_{k}": share for k, share in ((1, 0.4), (5, 0.75), (10, 0.9))},
    **{f"recall_at_{k}": 0.1 for k in (1, 5, 10)},  # another figure where a query has several answers
    "ndcg_at_10": 0.61,
    "accuracy": 0.4,
    "main_score": 0.61,
    "nauc_ndcg_at_10_max": float("nan"),
    "hf_subset": "default",
}


def write_result(folder: Path, name: str, entry: dict[str, Any], meta: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"task_name": name, "dataset_revision": "4661603", "mteb_version": "2.26.24", "scores": {"test": [entry]}}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    about = {"name": "petl_bench/lora", "revision": "abc", "training_datasets": ["MSRVTTT2V"], **(meta or {})}
    (folder / "model_meta.json").write_text(json.dumps(about), encoding="utf-8")
    return folder / f"{name}.json"


def test_figures_and_their_state(tmp_path: Path) -> None:
    folder = tmp_path / "mteb" / "results" / "petl_bench__lora" / "abc"
    write_result(folder, "MSRVTTT2V", ENTRY)
    write_result(folder, "MSVDT2VRetrieval", {**ENTRY, "main_score": 0.4})
    classes = {"accuracy": 0.5, "main_score": 0.5, "hf_subset": "default"}
    write_result(folder / "experiments" / "frames_32", "Diving48", classes, {"training_datasets": None})
    found = {result.task: result for result in collect_mteb([tmp_path]).results}
    assert found["MSRVTTT2V"].recall == (40, 75, 90)
    assert (found["MSRVTTT2V"].main, found["MSRVTTT2V"].main_title) == (61, "nDCG@10")
    assert found["MSRVTTT2V"].state == "trained on it"
    assert found["MSVDT2VRetrieval"].state == "not trained on it"
    assert found["MSVDT2VRetrieval"].main_title == "accuracy"
    assert (found["Diving48"].recall, found["Diving48"].state) == (None, "")
    assert found["Diving48"].revision == "abc frames_32"


def test_a_published_result_stands_beside_ours(tmp_path: Path) -> None:
    """Files of MTEB's own repository have the same form; a copy of a file counts once."""
    write_result(tmp_path / "ours", "MSRVTTT2V", ENTRY)
    write_result(tmp_path / "copy", "MSRVTTT2V", ENTRY)
    write_result(tmp_path / "theirs", "MSRVTTT2V", {**ENTRY, "main_score": 0.6}, {"name": "org/other"})
    assert [result.model for result in collect_mteb([tmp_path]).results] == ["petl_bench/lora", "org/other"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "no result of MTEB"),
        ('{"task_name": "a", "scores": {"test": [{}]}}', "main_score is missing"),
        ('{"task_name": "a", "scores": {"test": [{"main_score": NaN}]}}', "main_score is nan, no number"),
        ('{"task_name": "a", "scores": {"test": [{"main_score": 40}]}}', "main_score is 40, no share"),
        ('{"task_name": ["a"], "scores": {"test": [{"main_score": 0.1}]}}', "task_name is ['a'], no name"),
    ],
)
def test_what_is_no_result_is_rejected(content: str, reason: str, tmp_path: Path) -> None:
    path = write_result(tmp_path, "MSRVTTT2V", ENTRY)
    path.write_text(content, encoding="utf-8")
    found = collect_mteb([tmp_path])
    assert not found.results
    assert [(item.path, reason in item.reason) for item in found.rejected] == [(path, True)]


def test_the_model_beside_it_cannot_be_read(tmp_path: Path) -> None:
    path = write_result(tmp_path, "MSRVTTT2V", ENTRY)
    path.with_name("model_meta.json").write_text("{", encoding="utf-8")
    (item,) = collect_mteb([tmp_path]).rejected
    assert "model_meta.json beside it cannot be read" in item.reason


def test_every_format_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under names that are markup, inert."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "result.json").write_text(json.dumps(make_record()), encoding="utf-8")
    hostile = {"name": "<img src=x onerror=alert(1)>/|b"}
    write_result(tmp_path / "runs" / "mteb", "MSRVTTT2V", ENTRY, hostile)
    leaderboard([tmp_path / "runs"], tmp_path / "report")
    assert "MTEB: own test sets" in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "61.0 (nDCG@10)" in page
    assert "<img" not in page
    text = (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| 61.0 (nDCG@10) | trained on it |" in text
    assert "<img" not in text
    before = (tmp_path / "report" / "report.json").read_bytes()
    write_result(tmp_path / "runs" / "mteb", "MSRVTTT2V", {**ENTRY, "main_score": 0.5}, hostile)
    leaderboard([tmp_path / "runs"], tmp_path / "report")
    assert (tmp_path / "report" / "report.json").read_bytes() != before


def test_the_document_satisfies_its_schema(tmp_path: Path) -> None:
    from jsonschema import validate

    write_result(tmp_path, "MSRVTTT2V", ENTRY)
    report = Report([], [], [], mteb=collect_mteb([tmp_path]).results)
    validate(as_document(report), document_schema())
    assert "MTEB" in render_markdown(report)
