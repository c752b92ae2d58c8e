"""Bytes of people we do not know: one error of one line, whatever is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from petl_bench.backbones.weights import local_files
from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.named_configs import find_config
from petl_bench.errors import UsageError
from petl_bench.storage.untrusted import (
    UnreadableError,
    expanded,
    is_file,
    mistaken,
    parse_json,
    plain_text,
    read_bytes,
    read_text,
    shown,
    shown_all,
    whole_number,
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b" \r\n\t\n", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
        ("a,b".encode("utf-16"), "UTF-16 text: save it as UTF-8"),
        ("a,b".encode("utf-16-be"), "a zero byte in line 1"),
        (b"a\nb\nc\0", "a zero byte in line 3"),
        (b"a\ncaf\xe9", r"byte 5 is not UTF-8 \(line 2\): save the file as UTF-8"),
        (b"PK\x03\x04abc", "Excel workbook"),
        (b"\x1f\x8b\x08abc", "compressed by gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE HTML><html>", "a web page"),
        (b"<HTML>", "a web page"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=told) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


def test_text_without_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r")
    assert read_text(path) == "a\r\nb\r"  # what ends a line is up to who reads it


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"0123456789")
    for path, told in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "absent", "No such file"),
        (tmp_path / "large" / "below", "Not a directory"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / ("x" * 300), "too long"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(UnreadableError, match=told):
            read_bytes(path)
        assert not is_file(path)
        assert mistaken(path) == "" if path.name != "pipe" else True
    with pytest.raises(UnreadableError, match="10 bytes are too many"):
        read_bytes(tmp_path / "large", 9)
    assert is_file(tmp_path / "large")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": [1,', "line 1 column"),
        ("[" * 100_000, "nests too deeply"),
        ('{"a":' * 100_000, "nests too deeply"),
        ('[{"a": 1, "b": 2, "a": 3}]', "key 'a' occurs twice"),
        ("1" * 5000, "digits"),
        ("", "Expecting value"),
        ('{"a": 1} {"b": 2}', "Extra data"),
    ],
)
def test_what_is_no_json(text: str, told: str) -> None:
    with pytest.raises(UnreadableError, match=told) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_fields_that_nobody_reads_may_hold_anything() -> None:
    assert parse_json('{"a": NaN, "b": -Infinity, "c": 1e999}')["c"] == float("inf")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *(
            (7, 7),
            (-7, -7),
            (7.0, 7),
            ("7", 7),
            (" 7 ", 7),
            ("7.0", 7),
            ("7.", 7),
            ("+7", 7),
            ("007", 7),
            (2**80, 2**80),
        ),
        *((7.5, None), ("7.5", None), (True, None), (False, None), (None, None), ([7], None), ({}, None), ("", None)),
        *((float("inf"), None), (float("nan"), None), ("Infinity", None), ("1e3", None), ("1_000", None), ("٣", None)),
        *(("9" * 30, None), ("0x7", None), ("7 8", None), ("- 7", None)),
    ],
)
def test_whole_numbers(value: Any, number: int | None) -> None:
    found = whole_number(value)
    assert (found, type(found)) == (number, type(number))


def test_values_in_messages_are_short_and_printable() -> None:
    many: list[Any] = ["a" * 10**6, "\n\x1b\ud800", [[[[1]]]] * 50, {"a": "b" * 1000}, 10**4000, 10**5000, {1, "a"}]
    for value in many:
        assert shown(value).isprintable()
        assert 0 < len(shown(value)) < 600
    assert len(shown_all(["a\n" * 1000] * 10)) < 300
    assert shown_all(["a", "b"]) == "'a', 'b'"


def test_a_deep_value_in_a_message() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert len(shown(value)) < 50


@pytest.mark.parametrize(
    ("text", "plain"),
    [("é\n", "é\n"), ("a\ud83d", "a\ufffd"), ("\udc00b", "\ufffdb"), ("\ud83d\ude00", "😀"), ("", "")],
)
def test_text_that_can_be_encoded(text: str, plain: str) -> None:
    assert plain_text(text) == plain
    plain.encode()


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x.yaml", "~nobody.yaml", "~a\0b", "a\0b"])
def test_home_of_nobody_and_names_that_none_can_have(name: str) -> None:
    assert str(expanded(name)) == name
    assert not is_file(expanded(name))
    with pytest.raises(UsageError, match="model: no file"):
        ClassPathGuard().with_fragments([f"--model={name}.yaml"])
    with pytest.raises(UsageError, match="no file and no packaged configuration"):
        find_config(name)
    assert local_files(name, ()) is None
