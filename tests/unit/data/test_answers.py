"""Answer vocabularies from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petl_bench.data.answers import find_answer_list, read_vocabulary
from petl_bench.errors import DataError, UsageError

RECORDS = [{"question": "?", "answer": answer} for answer in ("b", "c", "c", "a", "d", "b", "null")]


def save(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ans2label.json", {"man": 1, "": 0, "two words": 2}),
        ("answer_list.json", ["", "man", "two words"]),
        ("answers.txt", "\nman\ntwo words\n"),
    ],
)
def test_lists_keep_their_order(name: str, value: Any, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(tmp_path, name, value))
    assert vocabulary.answers == ("", "man", "two words")
    assert vocabulary.index == {"": 0, "man": 1, "two words": 2}
    assert vocabulary.file == name
    assert len(vocabulary) == 3


def test_an_answer_list_is_below_the_dataset(tmp_path: Path, own_folder: Path) -> None:
    save(tmp_path, "answers.json", ["below root"])
    save(own_folder, "answers.json", ["in the current folder"])
    absolute = own_folder / "answers.json"
    assert find_answer_list(Path("answers.json"), tmp_path) == tmp_path / "answers.json"
    assert find_answer_list(absolute, tmp_path) == absolute
    assert find_answer_list(Path("answers.json"), None).resolve() == absolute.resolve()
    assert find_answer_list(Path("absent.json"), tmp_path) == tmp_path / "absent.json"


def test_an_earlier_answer_list_is_in_the_current_folder(tmp_path: Path, own_folder: Path) -> None:
    """Earlier versions wrote `demo/fixture/train_qa.json` beside `root: demo/fixture` into config.yaml."""
    save(own_folder, "answers.json", ["a"])
    with pytest.warns(UserWarning, match=rf"{tmp_path}/answers.json does not exist; taking {own_folder}/answers.json"):
        assert find_answer_list(Path("answers.json"), tmp_path).is_file()


def test_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = save(tmp_path, "answers.json", ["a"])
    assert find_answer_list(Path("~/answers.json"), Path("/nowhere")) == path
    assert find_answer_list(Path("answers.json"), Path("~")) == path


def test_an_annotation_file_as_csv(tmp_path: Path) -> None:
    path = save(tmp_path, "train.csv", "video,question,answer\na,?,yes\nb,?,no\nc,?,yes\n")
    assert read_vocabulary(path, 1).answers == ("yes",)


@pytest.mark.parametrize("name", ["train_qa.json", "train.jsonl"])
@pytest.mark.parametrize(("count", "expected"), [(None, "b c a d null"), (3, "b c a"), (1, "b"), (9, "b c a d null")])
def test_most_frequent_training_answers(name: str, count: int | None, expected: str, tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, RECORDS))
    path = save(tmp_path, name, lines if name.endswith("l") else RECORDS)
    assert read_vocabulary(path, count).answers == tuple(expected.split())


def test_hash_tells_order(tmp_path: Path) -> None:
    first, second, same = (
        read_vocabulary(save(tmp_path, name, value))
        for name, value in (("1.json", ["a", "b"]), ("2.json", ["b", "a"]), ("3.json", {"b": 1, "a": 0}))
    )
    assert first.sha256 == same.sha256 != second.sha256


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": 0, "b": 2}, "places 0 to 1"),
        ({"a": "0"}, "places"),
        (["a", 3], "neither a list of answers"),
        ([], "neither a list of answers"),
        ("3", "neither a list of answers"),
        (["a", "b", "a"], "'a' is listed more than once"),
        ([{"answer": "a"}, {"question": "?"}], "record 1: 'answer' is missing"),
        ('["a"', "not whole JSON"),
    ],
)
def test_other_files_are_refused(value: Any, told: str, tmp_path: Path) -> None:
    path = save(tmp_path, "list.json", value)
    with pytest.raises(DataError, match=told) as caught:
        read_vocabulary(path)
    assert str(path) in str(caught.value)


def test_max_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="taken whole"):
        read_vocabulary(save(tmp_path, "list.json", ["a", "b"]), 1)
    with pytest.raises(UsageError, match="at least 1"):
        read_vocabulary(save(tmp_path, "train.json", RECORDS), 0)


def test_real_lists(shared: Path) -> None:
    annotations = shared / "data" / "annotations"
    assert len(read_vocabulary(annotations / "msrvtt_qa" / "train_ans2label.json")) == 1500
    by_place = read_vocabulary(annotations / "vqav2" / "trainval_ans2label.json")
    listed = read_vocabulary(annotations / "vqav2" / "trainval_label2ans.json")
    assert by_place.answers == listed.answers
    assert (len(listed), listed.answers[0]) == (3129, "")
    assert len(read_vocabulary(annotations / "msvd_qa" / "answer_set.txt")) == 1000
