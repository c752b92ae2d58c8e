"""A user's own clips: CSV, JSON and jsonl."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from datamodules.custom import Custom, CustomQA
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import Moment


def test_rows_of_one_video_are_its_captions(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(
        'video,caption,start,end\na/x.mp4,"one, two",3,9\nNA,null,,\na/x.mp4,again,3,9\n'
    )
    samples = Custom(tmp_path).samples("test")
    assert [(s.video, s.captions, s.moment.start, s.moment.end) for s in samples] == [
        ("x", ("one, two", "again"), 3, 9),
        ("NA", ("null",), None, None),
    ]


@pytest.mark.parametrize("name", ["test.json", "test.jsonl"])
def test_json_and_jsonl(tmp_path: Path, name: str) -> None:
    rows = [{"video": "x.mp4", "caption": "one", "end": 4}, {"video": "y.v2", "caption": "two"}]
    text = json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    samples = Custom(tmp_path, test_file=name, dataset_name="mine").samples("test")
    assert [(s.video, s.captions, s.moment.end) for s in samples] == [("x", ("one",), 4), ("y.v2", ("two",), None)]


def test_the_dataset_has_the_name_it_is_given(tmp_path: Path) -> None:
    data = Custom(tmp_path, dataset_name="mine-2")
    assert (data.dataset, data.protocol.id) == ("mine-2", "mine-2/own")
    with pytest.raises(UsageError, match="dataset_name"):
        Custom(tmp_path, dataset_name="../up")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("x.mp4", "line 2: 1 fields"),
        ("x.mp4,", "line 2: 'caption' is missing"),
        ("../x.mp4,one", "line 2: video '../x.mp4' is not inside the folder of clips"),
        ("/etc/x.mp4,one", "line 2: video '/etc/x.mp4' is an absolute path"),
        ('x.mp4,"one', "line 2: unexpected end"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: str, told: str) -> None:
    (tmp_path / "test.csv").write_text(f"video,caption\n{rows}\n")
    with pytest.raises(DataError, match=told):
        Custom(tmp_path).samples("test")


def test_two_parts_of_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("video,caption,start,end\n./a/x.mp4,one,0,4\na/x.mp4,two,,\n")
    with pytest.raises(
        DataError, match=r"line 3: video 'a/x.mp4' stands above from second 0 to 4, and here as a whole"
    ):
        Custom(tmp_path).samples("test")


def test_files_of_one_stem_are_videos_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("video,caption\na/x.mp4,one\nb/x.mp4,two\nx.mkv,three\ny.mp4,four\n")
    samples = Custom(tmp_path).samples("test")
    assert [sample.video for sample in samples] == ["a__x.mp4", "b__x.mp4", "x.mkv", "y"]
    assert [sample.names for sample in samples] == [("a/x.mp4",), ("b/x.mp4",), ("x.mkv",), ("y.mp4",)]


def test_one_name_in_two_normal_forms_is_one_video_unless_both_exist(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(kind, "Café.mp4") for kind in ("NFC", "NFD")]
    (tmp_path / "videos").mkdir()
    (tmp_path / "test.csv").write_text(f"video,caption\n{forms[0]},one\n{forms[1]},two\n")
    (tmp_path / "videos" / forms[1]).write_text("one")
    assert [sample.captions for sample in Custom(tmp_path).samples("test")] == [("one", "two")]
    (tmp_path / "videos" / forms[0]).write_text("two")
    data = Custom(tmp_path)
    assert [sample.captions for sample in data.samples("test")] == [("one",), ("two",)]
    assert data._find("test", data.samples("test")) == [tmp_path / "videos" / form for form in forms]


def test_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "x.mp4").touch()
    (tmp_path / "test.csv").write_text("video,caption\nx,one\nx.mp4,two\n")
    data = Custom(tmp_path)
    with pytest.raises(DataError, match=r"test split: 'x' and 'x.mp4' are both .*/x.mp4: write it one way"):
        data._find("test", data.samples("test"))


def test_training_on_a_test_video_is_told_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "b").mkdir()
    for name in ("a/x.mp4", "b/x.mp4"):
        (tmp_path / "videos" / name).write_text(name)
    (tmp_path / "train.csv").write_text("video,caption\na/x.mp4,one\n")
    (tmp_path / "test.csv").write_text("video,caption\nb/x.mp4,two\n")
    Custom(tmp_path)._require_unseen()
    (tmp_path / "test.csv").write_text("video,caption\na/x,two\n")
    with pytest.raises(DataError, match="in the training and in the test split"):
        Custom(tmp_path)._require_unseen()


@pytest.mark.parametrize(("start", "end"), [("0.5", "7.699999999999999"), ("+1", "2.5"), (" 7.0", "12."), ("", "0.25")])
def test_a_part_may_have_fractions_of_seconds(tmp_path: Path, start: str, end: str) -> None:
    (tmp_path / "test.csv").write_text(f"video,caption,start,end\nx.mp4,one,{start},{end}\n")
    row = {"video": "x.mp4", "caption": "one", "start": float(start) if start.strip() else None, "end": float(end)}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    ((by_table,), (by_json,)) = (Custom(tmp_path, test_file=f"test.{kind}").samples("test") for kind in ("csv", "json"))
    assert by_table.moment == by_json.moment == Moment(row["start"], row["end"])  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["5,5", "5.5,5.25", "5,4", "-1,4", "a,4"])
def test_a_part_that_cannot_be_is_refused(tmp_path: Path, part: str) -> None:
    (tmp_path / "test.csv").write_text(f"video,caption,start,end\nx.mp4,one,{part}\n")
    with pytest.raises(DataError, match="line 2"):
        Custom(tmp_path).samples("test")


def test_questions(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"video": "x.mp4", "question": "What is it?", "answer": "a cat"},
        {"video": "x.mp4", "question": "How many?", "answer": ["2", "2", "two"], "type": "number", "id": 77},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (sample,) = CustomQA(tmp_path, test_file="test.jsonl").samples("test")
    assert sample.captions == ("What is it?", "How many?")
    assert [(q.id, q.type, q.answers) for q in sample.questions] == [
        (0, "what", ("a cat",)),
        (77, "number", ("2", "2", "two")),
    ]


@pytest.mark.parametrize("answer", [None, "", [], [3], 3])
def test_a_question_needs_an_answer(tmp_path: Path, answer: Any) -> None:
    row = {"video": "x.mp4", "question": "What?", "answer": answer}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"line 1: 'answer'"):
        CustomQA(tmp_path, test_file="test.jsonl").samples("test")


NO_SECONDS: list[Any] = ["1,5", "1.5s", True, float("inf"), float("nan"), -1, 10**10, 10**400, "x", [1], {"a": 1}]


@pytest.mark.parametrize("key", ["start", "end"])
@pytest.mark.parametrize("value", NO_SECONDS, ids=lambda value: str(value)[:8])
def test_moments_in_json_are_checked_like_those_in_tables(tmp_path: Path, key: str, value: Any) -> None:
    rows = [{"video": "y", "caption": "fine", "start": 1}, {"video": "x", "caption": "one", key: value}]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=rf"test.json, record 1: '{key}' is .*, not a number of seconds"):
        Custom(tmp_path, test_file="test.json").samples("test")


@pytest.mark.parametrize(("start", "end"), [(5, 5), (5, 4), (0, 0), (None, 0)])
def test_moments_that_are_no_time(tmp_path: Path, start: int | None, end: int) -> None:
    (tmp_path / "test.json").write_text(json.dumps([{"video": "x", "caption": "one", "start": start, "end": end}]))
    with pytest.raises(DataError, match="record 0: a part from second"):
        Custom(tmp_path, test_file="test.json").samples("test")


@pytest.mark.parametrize("key", ["video", "caption"])
@pytest.mark.parametrize("value", [None, "", " \t", 7, True, 1.5, ["x"], {"x": 1}])
def test_names_and_texts_in_json(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "test.jsonl").write_text("\n" + json.dumps({"video": "x", "caption": "one", key: value}))
    with pytest.raises(DataError, match=rf"test.jsonl, line 2: '{key}' is "):
        Custom(tmp_path, test_file="test.jsonl").samples("test")


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("video,caption\n007,a\n1e3.mp4,b\n12_34,c\n")
    assert [sample.video for sample in Custom(tmp_path).samples("test")] == ["007", "1e3", "12_34"]


def asked(root: Path, *rows: dict[str, Any], name: str = "test.jsonl") -> list[Any]:
    defaults = {"video": "x", "question": "What?", "answer": "a"}
    (root / name).write_text("\n".join(json.dumps(defaults | row) for row in rows))
    return [q for sample in CustomQA(root, test_file="test.jsonl").samples("test") for q in sample.questions]


def test_question_ids(tmp_path: Path) -> None:
    given = [7, "8", "007", "q1", 9.0, "1e3", -1, "-2", "-0", " x "]
    found = [7, 8, "007", "q1", 9, "1e3", -1, -2, "-0", "x"]
    assert [question.id for question in asked(tmp_path, *({"id": one} for one in given))] == found
    assert [question.id for question in asked(tmp_path, {}, {"id": None}, {"id": " "}, {"question_id": "v_1"})] == [
        *(0, 1, 2, "v_1")
    ]


@pytest.mark.parametrize("one", [1.5, True, float("inf"), float("nan"), [1], {"a": 1}])
def test_what_is_no_question_id(tmp_path: Path, one: Any) -> None:
    with pytest.raises(DataError, match=r"line 1: 'id' is .*, not a whole number or text"):
        asked(tmp_path, {"id": one})


@pytest.mark.parametrize("ids", [(3, 3), (3, "3"), ("q", "q"), (1, None)])
def test_two_questions_with_one_id(tmp_path: Path, ids: tuple[Any, Any]) -> None:
    first, second = ids
    with pytest.raises(DataError, match=r"line 2: question id .* is given twice \(see test.jsonl, line 1\)"):
        asked(tmp_path, {"id": first}, {"id": second})


def test_two_training_questions_with_one_id_are_told(tmp_path: Path) -> None:
    asked(tmp_path, {"id": 3})
    rows = "\n".join(json.dumps({"video": "y", "question": "?", "answer": "a", "id": 3}) for _ in range(2))
    (tmp_path / "train.jsonl").write_text(rows)
    with pytest.warns(UserWarning, match=r"train.jsonl, line 2: question id 3 is given twice .*; both are trained on"):
        assert len(CustomQA(tmp_path, train_file="train.jsonl").checked("train")) == 1


@pytest.mark.parametrize("question", ["", " ", "\n", None, 3, ["What?"]])
def test_a_question_that_is_blank_or_no_text(tmp_path: Path, question: Any) -> None:
    with pytest.raises(DataError, match="line 1: 'question' is "):
        asked(tmp_path, {"question": question})


def test_types_of_questions(tmp_path: Path) -> None:
    rows = [{"type": kind, "id": n} for n, kind in enumerate(["who", 3, "007", None, " ", 4.0])]
    assert [question.type for question in asked(tmp_path, *rows)] == ["who", "3", "007", "what?", "what?", "4"]
    for kind in (True, 1.5, [], ["who"], {"a": 1}):
        with pytest.raises(DataError, match="line 1: 'type' is "):
            asked(tmp_path, {"type": kind})


def test_answers_are_compared_without_white_space_in_one_form(tmp_path: Path) -> None:
    (first,) = asked(tmp_path, {"answer": [" a ", "cafe\u0301"]})
    assert first.answers == ("a", "caf\u00e9")
