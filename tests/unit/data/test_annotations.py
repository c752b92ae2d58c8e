"""Annotation files: what can be read, and one line that names file and record for what cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_bench.data.annotations import (
    Record,
    read_column,
    read_json,
    read_lines,
    read_records,
    read_section,
    read_table,
    read_text,
)
from petl_bench.errors import DataError

CSV = 'key,video_id,sentence\nret0,video0,a cat\nret1,video1,"a dog, running"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "annotations.file"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def refusal(read: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_column(path: Path, mark: str, ending: str) -> None:
    write(path, mark + CSV.replace("\n", ending))
    assert read_column(path, "key") == ["ret0", "ret1"]
    assert read_column(path, "video_id") == ["video0", "video1"]
    assert read_column(path, "sentence") == ["a cat", "a dog, running"]


def test_column_without_surrounding_space_and_last_newline(path: Path) -> None:
    assert read_column(write(path, "video_id , x\n video0 ,1\nvideo1,2"), "video_id") == ["video0", "video1"]


@pytest.mark.parametrize("text", ["two\u2028lines", "next\x85line", "a\x0btab", "a\x1cseparator", '"two\nlines"'])
def test_only_ends_of_lines_end_a_record(path: Path, text: str) -> None:
    write(path, f"video_id,sentence\nvideo0,{text}\n")
    assert read_column(path, "sentence") == [text.strip('"')]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("key,video\nret0,video0\n", ["no column 'video_id'", "(key, video)"]),
        ("video_id,sentence\nvideo0,a cat\nvideo1\n", ["line 3", "1 fields, the header has 2"]),
        ("video_id,sentence\nvideo0,a cat, a dog\n", ["line 2", "3 fields, the header has 2"]),
        ("video_id,sentence\n ,a cat\n", ["line 2", "'video_id' is missing or blank"]),
        ('video_id,sentence\nvideo0,"a cat\nvideo1,a dog\n', ["line 3", "a quote is opened and never closed"]),
        ("video_id,sentence\n", ["a header and no records"]),
        ("", ["is empty"]),
        (" \n\n", ["is empty"]),
    ],
)
def test_damaged_csv(path: Path, text: str, words: list[str]) -> None:
    message = refusal(read_column, write(path, text), "video_id")
    assert all(word in message for word in [str(path), *words])


def test_csv_cut_within_its_last_line(path: Path) -> None:
    message = refusal(read_column, write(path, CSV[: CSV.rindex(",")]), "video_id")
    assert str(path) in message


def test_not_utf8(path: Path) -> None:
    message = refusal(read_text, write(path, b"video_id\nvid\xe9o0\n"))
    assert str(path) in message
    assert "byte 12 is not UTF-8" in message


def test_missing_file_and_folder(path: Path) -> None:
    assert str(path) in refusal(read_text, path)
    path.mkdir()
    assert str(path) in refusal(read_text, path)


def test_json(path: Path) -> None:
    assert read_json(write(path, '\ufeff{"a": [1, "ü"]}')) == {"a": [1, "ü"]}


@pytest.mark.parametrize("text", ['{"a": [1,', "Not found", "[" * 100_000, '{"a": 1} x'])
def test_damaged_json(path: Path, text: str) -> None:
    message = refusal(read_json, write(path, text))
    assert str(path) in message
    assert "not whole JSON" in message


def test_a_key_of_json_that_occurs_twice(path: Path) -> None:
    message = refusal(read_json, write(path, '{"a": 1, "b": 2, "a": 3}'))
    assert f"{path}: key 'a' occurs twice in one object" in message
    assert message.endswith("; which of them counts?")


HEADER = "video,caption\n"
ROWS = "x,one\ny,two\n"


@pytest.mark.parametrize(
    "text",
    [
        HEADER + ROWS,
        f"\n\n{HEADER}\nx,one\n\n   \n,\ny,two\n\n\n",
        (HEADER + ROWS).replace("\n", "\r\r\n"),
        (HEADER + ROWS).replace("\n", "\r"),
        (HEADER + ROWS).replace("\n", "\r\n") + "\r\n\r\n",
        (HEADER + ROWS).replace(",", ";"),
        (HEADER + ROWS).replace(",", "\t"),
        (HEADER + ROWS).replace(",", " ; "),
        (HEADER + ROWS).replace(",", ', "').replace("\n", '"\n'),
        " VIDEO , Caption\n" + ROWS,
        '"Video","Caption"\n' + ROWS,
        "video,caption,,\nx,one,,\ny,two,\n",
        "video,caption\nx,one,,,\ny,two,\n",
        "id;caption;note;video\n1;one;;x\n2;two;a,b;y\n",
        "sep=;\n" + (HEADER + ROWS).replace(",", ";"),
    ],
)
def test_tables_that_leave_no_doubt(path: Path, text: str) -> None:
    records = read_table(write(path, text), ("video", "caption"))
    assert [(record.name("video"), record.text("caption")) for record in records] == [("x", "one"), ("y", "two")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ROWS, ["no column 'video' in its header (x, one)", "video, caption among them"]),
        ("clip|text\nx|one\n", ["(clip|text)", "commas, semicolons or tabs"]),
        ("video;text\nx;one\n", ["no column 'caption' in its header (video, text)"]),
        ("video,caption,Caption\nx,a,b\n", ["'caption' occurs twice"]),
        ("video;caption\nx;one;two\n", ["line 2: 3 fields, the header has 2", "between semicolons"]),
        ('video,caption\nx,"one" two\n', ["line 2: text after a closing quote", '("")']),
        ('video\tcaption\nx\t"one" two\n', ["line 2: text after a closing quote"]),
        ('video,caption\nx,"one\ny,two\n', ["a quote is opened and never closed"]),
        (f'video,caption\nx,"{"a" * 200_000}"\n', ["line 2: field larger than"]),
        (",,,\n;;;\n", ["no column 'video' in its header (;;;)"]),
        ("\x1b[31m,b\n1,2\n", [r"\x1b[31m, b"]),
    ],
)
def test_tables_that_are_refused(path: Path, text: str, words: list[str]) -> None:
    message = refusal(read_table, write(path, text), ("video", "caption"))
    assert all(word in message for word in [str(path), *words]), message


def test_a_table_without_rows(path: Path) -> None:
    assert read_table(write(path, HEADER), ("video", "caption")) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r", "\n\n"])
def test_lines_of_jsonl(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"a": "one\u2028two"}}{end}{{"a": "three"}}{end}')
    assert [record.values["a"] for record in read_records(path)] == ["one\u2028two", "three"]


def test_a_wrong_line_of_jsonl(tmp_path: Path) -> None:
    assert "a.jsonl, line 3 is not whole JSON" in refusal(
        read_records, write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": ')
    )
    assert "a.jsonl, line 2: expected an object" in refusal(read_records, write(tmp_path / "a.jsonl", "{}\n[]\n"))
    assert "call it .jsonl" in refusal(read_records, write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n'))


@pytest.mark.parametrize("value", [3, None, "", {}, [], {"other": [{}]}, {"rows": {}}, {"rows": []}, {"rows": [3]}])
def test_a_section_of_another_shape(path: Path, value: Any) -> None:
    assert str(path) in refusal(read_section, write(path, json.dumps(value)), "rows")


def test_ends_of_lines_in_lists(path: Path) -> None:
    assert read_lines(write(path, "a \r\n\r\n b\u2028c\r\r\nd")) == ["a", "b\u2028c", "d"]
    assert read_lines(write(path, "a\rb\r")) == ["a", "b"]


def record(**values: Any) -> Record:
    return Record(values, "file, record 3")


def test_texts_of_a_record() -> None:
    assert record(a=" x ").text("a") == " x "
    assert record(a=" x ").name("a") == "x"
    assert record(a="\ud83d").text("a") == "\ufffd"
    assert record(a=["", "x"]).strings("a") == ("", "x")
    assert record(a="x").strings("a") == ("x",)
    assert record(a=[{"b": "x"}, {"b": ""}]).strings_of("a", "b") == ("x", "")


NO_TEXT: list[Any] = [None, 3, 3.5, True, [], {}, ["x"], {"a": "x"}, float("inf")]


@pytest.mark.parametrize("value", [*NO_TEXT, "", " \n\t"])
def test_what_is_no_text_in_a_record(value: Any) -> None:
    for read in (record(a=value).text, record(a=value).name):
        assert refusal(read, "a").startswith("file, record 3: 'a' is ")
    assert "there is b" in refusal(record(b=1).text, "a")


@pytest.mark.parametrize("value", [3, None, True, [], {}, [3], ["x", None], [["x"]], [{"b": "x"}]])
def test_what_are_no_texts(value: Any) -> None:
    assert refusal(record(a=value).strings, "a").startswith("file, record 3: 'a' is ")


@pytest.mark.parametrize("value", [3, None, [], {}, "x", ["x"], [{}], [{"b": 3}], [{"b": "x"}, None]])
def test_what_are_no_objects_with_texts(value: Any) -> None:
    assert refusal(record(a=value).strings_of, "a", "b").startswith("file, record 3: 'a' is ")


def test_whole_numbers_of_a_record() -> None:
    assert [record(a=value).whole("a", 0, 9) for value in (0, 9, 7.0, "7", "7.0")] == [0, 9, 7, 7, 7]
    for value in (1.5, "1.5", True, None, "x", [], float("nan"), float("inf"), "1e999", -1, 10, 10**400):
        assert refusal(record(a=value).whole, "a", 0, 9).startswith("file, record 3: 'a' is ")
    assert "at least 0" in refusal(record(a=-1).whole, "a", 0)


def test_whether_there_is_a_value() -> None:
    assert all(record(a=value).has("a") for value in (0, False, "x", [], {}, 0.0))
    assert not any(record(a=value).has("a") for value in (None, "", " \n"))
    assert not record().has("a")
