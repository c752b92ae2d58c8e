"""NExT-QA, open-ended: questions with one or two answers, and what is wrong with a row or with second answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.nextqa_oe import NExTQAOE
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError, MissingFileError
from petl_bench.fixture import WRITERS
from petl_bench.testing import check_datamodule

HEADER = "video,frame_count,width,height,question,answer,qid,type"
ROW = "24,719,320,240,what did  the baby do,none,8,TP"


def read(folder: Path, *rows: str, split: Split = "test", second: Any = None, **options: Any) -> list[Sample]:
    (folder / f"{split}.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    (folder / "add_reference_answer_test.json").write_text(json.dumps(second or {"24": {"8": "null "}}))
    data = NExTQAOE(folder, **options)
    return data.annotations(split)


def test_questions_and_their_second_answers(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, ROW, ROW.replace(",8,TP", ",9,DB"))
    assert sample.captions == ("what did the baby do",) * 2
    first, other = sample.questions
    assert (first.id, first.type, first.group, first.answers) == ("24_8", "TN", "temporal", ("none", "null"))
    sent = NExTQAOE(tmp_path).submission({first.id: "to go", other.id: "", "25_0": "no"})
    assert sent == {"24": {"8": "to go", "9": ""}, "25": {"0": "no"}}
    assert (other.id, other.type, other.group, other.answers) == ("24_9", "DB", "descriptive", ("none",))


def test_without_second_answers_it_is_another_protocol(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, ROW, references_file=None)
    assert sample.questions[0].answers == ("none",)
    assert NExTQAOE(tmp_path).protocol.id == "nextqa-oe-test/v1"
    assert NExTQAOE(tmp_path, references_file=None).protocol.id == "nextqa-oe-test-one-answer/v1"
    assert NExTQAOE(tmp_path, test_on="val").protocol.id == "nextqa-oe-val/v1"
    (tmp_path / "add_reference_answer_test.json").unlink()
    with pytest.raises(MissingFileError, match=r"add_reference_answer_test.json: .* data.references_file"):
        NExTQAOE(tmp_path).checked("test")
    (tmp_path / "test.csv").rename(tmp_path / "val.csv")
    assert NExTQAOE(tmp_path, test_on="val").annotations("test") == [sample]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (ROW.replace(",TP", ",XX"), "line 2: type 'XX' is none of"),
        (ROW.replace(",none,", ", ,"), "line 2: 'answer' is missing or blank"),
        (ROW.removesuffix(",TP"), "line 2: 7 fields, the header has 8"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(row: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"test.csv, {told}"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ([], "expected answers by video and question, found list"),
        ({"24": "null"}, "video '24': expected answers by question"),
        ({"24": {"8": " "}}, "video '24': '8' is blank"),
        ({"24": {"8": 3}}, "video '24': '8' is 3, not text"),
        ({"24": {"8": "null", "9": "a"}, "25": {"8": "b"}}, "2 answers are to no question of .*test.csv, such as"),
    ],
)
def test_what_is_wrong_with_second_answers_is_told(second: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "add_reference_answer_test.json").write_text(json.dumps(second))
    (tmp_path / "test.csv").write_text(f"{HEADER}\n{ROW}\n")
    with pytest.raises(DataError, match=f"add_reference_answer_test.json: {told}"):
        NExTQAOE(tmp_path).annotations("test")


def test_as_many_second_answers_as_the_protocol_has(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/annotations_2/nextqa_oe"
    second = json.loads((root / "add_reference_answer_test.json").read_text())
    second.popitem()
    (tmp_path / "cut.json").write_text(json.dumps(second))
    data = NExTQAOE(root, references_file=str(tmp_path / "cut.json"))
    with pytest.raises(DataError, match=r"cut.json: second answers to 46\d\d test questions, expected 4632"):
        data.samples("test")


def test_a_training_question_may_stand_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="line 3: question id '24_8' is given twice .*; both are trained on"):
        (sample,) = read(tmp_path, ROW, ROW, split="train")
    assert len(sample.questions) == 2
    with pytest.raises(DataError, match=r"test.csv, line 3: question id '24_8' is given twice"):
        read(tmp_path, ROW, ROW)


def test_the_generated_files(tmp_path: Path) -> None:
    WRITERS["nextqa_oe"](tmp_path / "oe", train_videos=8, test_videos=4, size=32, seconds=1)
    with pytest.warns(UserWarning, match="both are trained on"):
        check_datamodule("NExTQAOE", tmp_path / "oe", "data/nextqa_oe.yaml", partial=True, frames=2, max_words=32)
    questions = [q for sample in NExTQAOE(tmp_path / "oe").annotations("test") for q in sample.questions]
    assert Counter(len(question.answers) for question in questions) == {1: 18, 2: 2}


@pytest.mark.parametrize(
    ("test_on", "videos", "questions", "two_answers", "groups"),
    [
        ("val", 570, 5343, 0, {"causal": 2611, "temporal": 1612, "descriptive": 1120}),
        ("test", 1000, 9178, 4632, {"causal": 4507, "temporal": 2657, "descriptive": 2014}),
    ],
)
def test_the_real_files(
    test_on: Any, videos: int, questions: int, two_answers: int, groups: dict[str, int], shared: Path
) -> None:
    data = NExTQAOE(shared / "data/annotations_2/nextqa_oe", test_on=test_on)
    samples = data.samples("test")
    found = [question for sample in samples for question in sample.questions]
    assert (len(samples), len(found)) == (videos, questions)
    assert Counter(question.group for question in found) == groups
    assert sum(len(question.answers) == 2 for question in found) == two_answers


def test_a_head_of_the_training_file_is_refused_unless_it_is_partial(shared: Path) -> None:
    root = shared / "data/annotations_2/nextqa_oe"
    with pytest.raises(DataError, match="train split has 481 videos, expected 3870"):
        NExTQAOE(root, train_file="train.head500.csv").checked("train")
    assert len(NExTQAOE(root, train_file="train.head500.csv", partial=True).checked("train")) == 481
