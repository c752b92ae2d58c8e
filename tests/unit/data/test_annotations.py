"""Annotation files: what can be read, and one line that names file and record for what cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_bench.data.annotations import read_column, read_json, read_text
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
