"""EgoSchema: both shapes of its questions, the subset with answers, what is wrong with a record, what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.egoschema import EgoSchema
from petl_bench.data.describe import describe
from petl_bench.data.samples import Sample
from petl_bench.errors import DataError, MissingFileError
from petl_bench.fixture import WRITERS
from petl_bench.testing.gated import Gated

RECORD: dict[str, Any] = {"q_uid": "ab-1", "google_drive_id": "x", "question": "What\n happened?"}
RECORD |= {f"option {place}": f"c walks  {place} times" for place in range(5)}
OTHER = RECORD | {"q_uid": "cd-2"}


def read(folder: Path, questions: Any, answers: Any = None, **options: Any) -> list[Sample]:
    (folder / "questions.json").write_text(json.dumps(questions), encoding="utf-8")
    (folder / "subset_answers.json").write_text(json.dumps(answers or {"ab-1": 3}), encoding="utf-8")
    return EgoSchema(folder, **options).annotations("test")


def by_uid(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {one["q_uid"]: {key: value for key, value in one.items() if key != "q_uid"} | more for one in records}


def test_the_subset_is_what_has_an_answer(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, [RECORD, OTHER])
    (question,) = sample.questions
    assert (sample.video, sample.captions, question.id) == ("ab-1", ("What happened?",), "ab-1")
    assert question.options == question.choices == tuple(f"c walks {place} times" for place in range(5))
    assert (question.correct, question.answers) == (3, ("c walks 3 times",))
    ((question,),) = [one.questions for one in read(tmp_path, [RECORD], compare="question and option")]
    assert question.options[1] == "What happened? c walks 1 times"


def test_questions_by_uid_give_the_same(tmp_path: Path) -> None:
    assert read(tmp_path, by_uid(RECORD, OTHER)) == read(tmp_path, [RECORD, OTHER])
    truths = by_uid(RECORD, truth=3)
    assert read(tmp_path, truths, answers_file=None) == read(tmp_path, truths) == read(tmp_path, [RECORD])


def test_of_the_full_set_nobody_knows_the_answers(tmp_path: Path) -> None:
    (tmp_path / "questions.json").write_text(json.dumps([RECORD, OTHER | {"truth": 1}]))
    data = EgoSchema(tmp_path, split_protocol="full", partial=True)
    assert [sample.video for sample in data.samples("test")] == ["ab-1", "cd-2"]
    assert not data.has_truth("test")
    assert data.submission({"ab-1": 4, "cd-2": -1}) == {"ab-1": 4, "cd-2": -1}
    assert data.samples("train") == data.samples("val") == []
    with pytest.raises(DataError, match="egoschema-full/v1: test split has 2 videos, expected 5031"):
        EgoSchema(tmp_path, split_protocol="full").samples("test")


@pytest.mark.parametrize(
    ("questions", "answers", "told"),
    [
        ([{key: value for key, value in RECORD.items() if key != "question"}], {}, "record 0: 'question' is missing"),
        ([RECORD | {"option 4": " "}], {}, "record 0: 'option 4' is blank"),
        ([RECORD | {"option 4": "c walks 0 times"}], {}, "record 0: option 'c walks 0 times' is given twice"),
        ([RECORD, RECORD], {}, "record 1: question id 'ab-1' is given twice"),
        ([RECORD], {"ab-1": 5}, "'ab-1': 'answer' is 5, not the index of an option, 0 to 4"),
        ([RECORD], {"ab-1": 1, "xy": 2}, "1 answers are to no question of .*questions.json: 'xy'"),
        ([RECORD], [1], "subset_answers.json: expected values by q_uid, found list"),
        ({"ab-1": 7}, {}, "questions.json: 'ab-1': expected a question with its options, found int 7"),
        (by_uid(RECORD, truth=2), {}, "'truth' is 2, and .*subset_answers.json says 3"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(questions: Any, answers: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read(tmp_path, questions, answers)


def test_without_a_file_of_answers_every_question_has_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 0: 'truth' is missing"):
        read(tmp_path, [RECORD], answers_file=None)


def test_options_that_are_cut_are_counted_also_at_the_most_tokens_there_can_be(tmp_path: Path) -> None:
    spec = Gated.tiny().spec
    long = RECORD | {"option 2": "c walks on " * spec.context_length}
    read(tmp_path, [long])
    data = EgoSchema(tmp_path, partial=True, max_words=spec.context_length, spec=spec)
    assert describe(data)["splits"]["test"]["cut_share"] == pytest.approx(0.2)


def test_the_generated_files(tmp_path: Path) -> None:
    WRITERS["egoschema"](tmp_path / "ego", train_videos=8, test_videos=4, size=32, seconds=1)
    subset = EgoSchema(tmp_path / "ego", partial=True)
    assert len(subset.samples("test")) == 6
    assert subset.has_truth("test")
    assert len({sample.questions[0].correct for sample in subset.samples("test")}) > 2
    assert len(EgoSchema(tmp_path / "ego", split_protocol="full", partial=True).samples("test")) == 12


@pytest.mark.parametrize(("split_protocol", "clips"), [("subset", 500), ("full", 5031)])
def test_the_real_files_are_counted_and_what_is_missing_is_named(split_protocol: Any, clips: int, shared: Path) -> None:
    data = EgoSchema(shared / "data/annotations_2/egoschema", split_protocol=split_protocol, spec=Gated.tiny().spec)
    found = describe(data)["splits"]
    assert found["test"]["videos"] == clips
    assert "questions.json" in found["test"]["missing"]
    with pytest.raises(MissingFileError, match=r"questions.json: .*data.questions_file"):
        data.samples("test")


def test_the_real_answers_are_spread_as_published(shared: Path) -> None:
    answers = EgoSchema(shared / "data/annotations_2/egoschema")._answers.values()
    found = [answer.whole("answer", 0, 4) for answer in answers]
    assert [found.count(place) for place in range(5)] == [101, 108, 91, 83, 117]
