"""A list of answers that does not belong to the questions is told before anything costly begins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.fixture_run import only_record, run

LIST = "--model.init_args.task.init_args.answer_list="


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nothing\nof this\n", ["answers.txt answers 0.0 % of the 56 train questions", "answer_list"]),
        ("RED\nBlue\n", ["answers 0.0 %", "upper and lower case differ"]),
    ],
)
def test_a_list_of_other_answers(
    text: str, told: list[str], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.txt").write_text(text)
    assert run("fit", "fixtureqa_full", dataset, tmp_path / "runs", f"{LIST}{tmp_path / 'answers.txt'}") == 4
    errors = capsys.readouterr().err
    assert all(word in errors for word in told)
    assert not (tmp_path / "runs").exists()


def test_a_list_of_few_answers(dataset: Path, tmp_path: Path) -> None:
    answers = sorted({row["answer"] for row in json.loads((dataset / "train_qa.json").read_text())})
    (tmp_path / "answers.txt").write_text(f" {answers[0]} \n\n\n{answers[1]}")
    option = f"{LIST}{tmp_path / 'answers.txt'}"
    with pytest.warns(UserWarning, match=r"answers.txt answers \d+\.\d % of the 56 train questions: all others"):
        assert run("fit", "fixtureqa_full", dataset, tmp_path / "runs", option) == 0
    _, record = only_record(tmp_path / "runs")
    assert record["eval"]["vocabulary"]["size"] == 2


def test_two_test_questions_with_one_id(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    rows = json.loads((copy / "test_qa.json").read_text())
    rows[5]["id"] = rows[2]["id"]
    (copy / "test_qa.json").write_text(json.dumps(rows))
    assert run("fit", "fixtureqa_full", copy, tmp_path / "runs", f"{LIST}{dataset / 'train_qa.json'}") == 4
    assert f"test_qa.json, record 5: question id {rows[2]['id']} is given twice" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_only_the_record_needs(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not after the evaluation that it is missed."""
    (tmp_path / "test.csv").write_text("video,caption\nvideo0,a red circle\n")
    (tmp_path / "videos").symlink_to(dataset / "videos")
    assert (
        run(
            "test",
            "fixture_zeroshot",
            tmp_path,
            tmp_path / "runs",
            "--data=data/custom.yaml",
            f"--data.init_args.root={tmp_path}",
        )
        == 4
    )
    assert "train.csv" in capsys.readouterr().err
    assert not list(tmp_path.rglob("ranks.npz"))
