"""A user's own clips: CSV, JSON and jsonl."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from datamodules.custom import Custom, CustomQA
from petl_bench.errors import DataError, UsageError


def test_rows_of_one_video_are_its_captions(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(
        'video,caption,start,end\na/x.mp4,"one, two",3,9\nNA,null,,\na/x.mp4,again,3,9\n'
    )
    samples = Custom(tmp_path).samples("test")
    assert [(s.video, s.captions, s.start, s.end) for s in samples] == [
        ("x", ("one, two", "again"), 3, 9),
        ("NA", ("null",), None, None),
    ]


@pytest.mark.parametrize("name", ["test.json", "test.jsonl"])
def test_json_and_jsonl(tmp_path: Path, name: str) -> None:
    rows = [{"video": "x.mp4", "caption": "one", "end": 4}, {"video": "y.v2", "caption": "two"}]
    text = json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    samples = Custom(tmp_path, test_file=name, dataset_name="mine").samples("test")
    assert [(s.video, s.captions, s.end) for s in samples] == [("x", ("one",), 4), ("y.v2", ("two",), None)]


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
    assert [sample.video for sample in samples] == ["a/x.mp4", "b/x.mp4", "x.mkv", "y"]
    assert [sample.names for sample in samples] == [("a/x.mp4",), ("b/x.mp4",), ("x.mkv",), ("y.mp4",)]


def test_one_name_in_two_normal_forms_is_one_video_unless_both_exist(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(kind, "Café.mp4") for kind in ("NFC", "NFD")]
    (tmp_path / "videos").mkdir()
    (tmp_path / "test.csv").write_text(f"video,caption\n{forms[0]},one\n{forms[1]},two\n")
    (tmp_path / "videos" / forms[1]).touch()
    assert [sample.captions for sample in Custom(tmp_path).samples("test")] == [("one", "two")]
    (tmp_path / "videos" / forms[0]).touch()
    data = Custom(tmp_path)
    assert [sample.captions for sample in data.samples("test")] == [("one",), ("two",)]
    assert data._find("test", data.samples("test")) == [tmp_path / "videos" / form for form in forms]


def test_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "x.mp4").touch()
    (tmp_path / "test.csv").write_text("video,caption\nx,one\nx.mp4,two\n")
    data = Custom(tmp_path)
    with pytest.raises(DataError, match=r"test split: videos 'x' and 'x.mp4' are one file, .*/x.mp4"):
        data._find("test", data.samples("test"))


def test_training_on_a_test_video_is_told_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "b").mkdir()
    for name in ("a/x.mp4", "b/x.mp4"):
        (tmp_path / "videos" / name).touch()
    (tmp_path / "train.csv").write_text("video,caption\na/x.mp4,one\n")
    (tmp_path / "test.csv").write_text("video,caption\nb/x.mp4,two\n")
    Custom(tmp_path)._require_unseen()
    (tmp_path / "test.csv").write_text("video,caption\na/x,two\n")
    with pytest.raises(DataError, match="in the training and in the test split"):
        Custom(tmp_path)._require_unseen()


@pytest.mark.parametrize("part", ["5,5", "5,4", "-1,4", "a,4"])
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
    with pytest.raises(DataError, match=r"record 0: 'answer'"):
        CustomQA(tmp_path, test_file="test.jsonl").samples("test")
