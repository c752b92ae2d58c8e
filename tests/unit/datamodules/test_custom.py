"""A user's own clips: CSV, JSON and jsonl."""

from __future__ import annotations

import json
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
        ("x.mp4,one\nb/x.avi,two", "line 3: video 'x' stands above as x.mp4"),
        ("../x.mp4,one", "not inside the folder of clips"),
        ("/etc/x.mp4,one", "not inside the folder of clips"),
        ('x.mp4,"one', "line 2: unexpected end"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: str, told: str) -> None:
    (tmp_path / "test.csv").write_text(f"video,caption\n{rows}\n")
    with pytest.raises(DataError, match=told):
        Custom(tmp_path).samples("test")


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
    with pytest.raises(DataError, match=r"line 1: 'answer'"):
        CustomQA(tmp_path, test_file="test.jsonl").samples("test")
