"""NExT-QA: both releases, the counts, and what is wrong with a row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from datamodules.nextqa import NExTQA
from petl_bench.data.samples import Split
from petl_bench.errors import DataError
from petl_bench.fixture import WRITERS
from petl_bench.testing import check_datamodule

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
OF_NEXT_GQA = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
ROW = "24,719,320,240,what did  the baby do,2,8,TP,clap,none,lie on floor,null,na"


def read(folder: Path, *rows: str, header: str = HEADER, split: Split = "test", **options: str) -> list:
    (folder / f"{split}.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return NExTQA(folder, partial=True, **options).annotations(split)  # type: ignore[arg-type]  # texts of options


def test_a_question_with_its_options(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, ROW, ROW.replace(",8,TP,", ",9,DO,"))
    first, second = sample.questions
    assert sample.video == "24"
    assert (first.id, first.type, first.group) == ("24_8", "TN", "temporal")  # TP counts as TN
    assert (second.id, second.type, second.group) == ("24_9", "DO", "descriptive")
    assert first.choices == ("clap", "none", "lie on floor", "null", "na")
    assert (first.correct, first.answers) == (2, ("lie on floor",))
    assert first.options[1] == "what did the baby do none"


def test_predictions_are_sent_in_the_form_of_the_official_scorer(tmp_path: Path) -> None:
    read(tmp_path, ROW, ROW.replace(",8,TP,", ",9,DO,"))
    data = NExTQA(tmp_path, partial=True)
    expected = {"24_8": {"prediction": 4, "answer": 2}, "24_9": {"prediction": -1, "answer": 2}}
    assert data.submission({"24_8": 4, "24_9": -1}) == expected


def test_the_release_with_answers_as_texts_gives_the_same(tmp_path: Path) -> None:
    other = ROW.replace(",2,8,", ",lie on floor,8,")
    assert read(tmp_path, other, header=OF_NEXT_GQA) == read(tmp_path, ROW)
    twice = ROW.replace(",2,8,", ",clap,8,").replace(",na", ",clap")
    with pytest.warns(UserWarning, match="1 questions have an option twice, which tie: '24_8'"):
        ((question,),) = [sample.questions for sample in read(tmp_path, twice, header=OF_NEXT_GQA)]
    assert question.correct == 0


@pytest.mark.parametrize(
    ("row", "header", "told"),
    [
        (ROW.replace(",2,8,", ",5,8,"), HEADER, "'answer' is '5', not the index of an option, 0 to 4"),
        (ROW.replace(",2,8,", ",-1,8,"), HEADER, "not the index of an option"),
        (ROW.replace(",2,8,", ",lie on floor,8,"), HEADER, "not the index of an option"),
        (ROW, OF_NEXT_GQA, "'answer' is '2', not one of the options"),
        (ROW.replace("lie on floor", ""), HEADER, "'a2' is missing or blank"),
        (ROW.replace("clap,none,lie on floor,null,na", "a,a,a,a,a"), HEADER, "option 'a' is given twice"),
        (ROW.replace(",TP,", ",XX,"), HEADER, "type 'XX' is none of"),
        (ROW.removesuffix(",na"), HEADER, "12 fields, the header has 13"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(row: str, header: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"test.csv, line 2: .*{told}"):
        read(tmp_path, row, header=header)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_question_that_stands_twice_is_refused(split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{split}.csv, line 3: question id '24_8' is given twice"):
        read(tmp_path, ROW, ROW, split=split)


def test_open_ended_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'a0' in its header"):
        read(tmp_path, "24,719,320,240,what,to go,8,CW", header=HEADER.removesuffix(",a0,a1,a2,a3,a4"))


def test_the_generated_files(tmp_path: Path) -> None:
    WRITERS["nextqa"](tmp_path / "nextqa", train_videos=8, test_videos=4, size=32, seconds=1)
    check_datamodule("NExTQA", tmp_path / "nextqa", "data/nextqa.yaml", partial=True, frames=2, max_words=32)
    questions = [q for s in NExTQA(tmp_path / "nextqa", partial=True).annotations("test") for q in s.questions]
    assert len(questions) == 16
    assert all(len(set(q.choices)) == 5 and q.answers == (q.choices[q.correct or 0],) for q in questions)
    assert len({q.correct for q in questions}) > 2


@pytest.mark.parametrize(
    ("test_on", "videos", "questions", "repeated", "groups"),
    [
        ("val", 570, 4996, 3, {"causal": 2607, "temporal": 1612, "descriptive": 777}),
        ("test", 1000, 8564, 8, {"causal": 4502, "temporal": 2657, "descriptive": 1405}),
    ],
)
def test_the_real_files(
    test_on: str, videos: int, questions: int, repeated: int, groups: dict[str, int], shared: Path
) -> None:
    data = NExTQA(shared / "data/annotations_2/nextqa_mc", test_on=test_on)  # type: ignore[arg-type]  # one of two
    with pytest.warns(UserWarning, match=f"{repeated} questions have an option twice"):
        samples = data.samples("test")
    assert data.protocol.id == f"nextqa-mc-{test_on}/v1"
    found = [question for sample in samples for question in sample.questions]
    assert (len(samples), len(found)) == (videos, questions)
    assert Counter(question.group for question in found) == groups
    assert data.has_truth("test")


def test_validating_on_test_data_is_another_protocol(shared: Path) -> None:
    root = shared / "data/annotations_2/nextqa_mc"
    assert NExTQA(root, test_on="val").annotations("val") == []
    assert "test" not in NExTQA(root, test_on="val").annotation_files()
