"""Answer vocabularies from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petl_bench.data.answers import find_answer_list, read_vocabulary
from petl_bench.data.batch import Question
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
        ("answers.jsonl", '""\n"man"\n\n"two words"\n'),
        ("spaces.json", [" ", "man ", "\ttwo words\n"]),
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("answers.txt", "man\ntwo words\n"),
        ("spaces.txt", "\ufeffman \r\n\r\n  two words\t\r\n \r\n\r\n"),
        ("cr.TXT", "man\rtwo words"),
        ("answers.csv", "answer\nman\n\ntwo words\n"),
        ("quoted.csv", ' "Answer"\r\n"man "\r\r\n"two words"\r\n\r\n'),
        ("answers.tsv", "answer\t\nman\t\ntwo words\t\n"),
        ("answers.jsonl", '{"answer": "man"}\n{"answer": " two words "}'),
        ("answers.json", '[{"answer": "man"}, {"answer": "two words"}]'),
        ("places.json", '{"two words ": 1, " man": 0}'),
    ],
)
def test_lists_of_every_kind_are_alike(name: str, text: str, tmp_path: Path) -> None:
    assert read_vocabulary(save(tmp_path, name, text)).answers == ("man", "two words")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("list.txt", "a\n\nb\na \n", r"line 4: answer 'a' occurs above, too \(line 1\)"),
        ("list.csv", "answer\na\nb\n a\n", r"line 4: answer 'a' occurs above, too \(line 2\)"),
        ("list.jsonl", '"a"\n"b"\n"a"', r"line 3: answer 'a' occurs above, too \(line 1\)"),
        ("list.csv", "yes\nno\n", r"no column 'answer' in its header \(yes\)"),
        ("list.txt", " \n\n", "is empty"),
        ("list.csv", "answer\n\n", "no answer in it"),
        ("list.jsonl", '{"answer": ["a", 3], "question": "?"}', r"line 1: 'answer' is \['a', 3\], not text"),
        ("list.jsonl", '{"answer": ["a", " "], "question": "?"}', "line 1: 'answer' is missing or blank"),
        ("list.jsonl", '{"answer": "a", "question": "?"}\n"b"', "line 2: 'b' stands among records"),
    ],
)
def test_a_wrong_line_is_named(name: str, text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read_vocabulary(save(tmp_path, name, text))


def test_answers_of_several_annotators_are_counted_one_by_one(tmp_path: Path) -> None:
    rows = [{"question": "?", "answer": ["yes", "no", "no "]}, {"question": "?", "answer": "maybe"}]
    assert read_vocabulary(save(tmp_path, "train.json", rows)).answers == ("no", "maybe", "yes")


def test_coverage(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(tmp_path, "list.txt", "a\nb\n"))
    asked = [Question(n, "what", answers) for n, answers in enumerate([("a",), ("c", "b"), ("A",), ("c",)])]
    assert vocabulary.coverage(asked) == 0.5
    assert vocabulary.coverage([]) == 1


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
        (["a", 3], "record 1: 3 is neither an answer nor a record"),
        ([], "expected a list"),
        ("3", "expected a list"),
        ({}, "is it an answer list"),
        ([""], "no answer in it"),
        ({"a": False, "b": True}, "places 0 to 1"),
        (["a", "b", "a"], r"record 2: answer 'a' occurs above, too \(record 0\)"),
        (["a", "b", " a\n"], r"record 2: answer 'a' occurs above, too \(record 0\)"),
        (["caf\u00e9", "cafe\u0301"], "record 1: answer 'caf\u00e9' occurs above"),
        (["two words", "two  words"], "record 1: answer 'two  words' occurs above"),
        ({"a": 0, "a ": 1}, "place 1: answer 'a' occurs above"),
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
