"""The manifest of a dataset: lines that are no entries, and files that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from petl_bench.data.manifest import Entry, read_manifest, write_manifest
from petl_bench.errors import DataError

LINE = {"id": "video1", "path": "videos/video1.mp4", "status": "ok"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "an object with id, path, status is expected"),
        ("3", "is expected"),
        ("{}", "is expected"),
        (json.dumps(LINE | {"more": 1}), "is expected"),
        (json.dumps(LINE | {"id": 3}), "'id' is 3"),
        (json.dumps(LINE | {"id": ["a"]}), "'id' is"),
        (json.dumps(LINE | {"id": None}), "'id' is None"),
        (json.dumps(LINE | {"status": "fine"}), "'status' is 'fine'"),
        (json.dumps(LINE | {"bytes": "10"}), "'bytes' is '10'"),
        (json.dumps(LINE | {"bytes": True}), "'bytes' is True"),
        (json.dumps(LINE | {"fps": "x"}), "'fps' is 'x'"),
        (json.dumps(LINE | {"warnings": "x"}), "'warnings' is 'x'"),
        (json.dumps(LINE | {"warnings": [1]}), "'warnings' is"),
        ("[" * 100_000, "nests too deeply"),
        (json.dumps(LINE)[:-3], "Unterminated"),
        (b"caf\xe9", "codec"),
    ],
)
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str | bytes, told: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n\n" + (line.encode() if isinstance(line, str) else line) + b"\n")
    with pytest.raises(DataError, match=r"manifest.jsonl, line 3 is no entry of a manifest") as caught:
        read_manifest(path)
    assert told in str(caught.value)
    path.write_bytes(path.read_bytes().rstrip())
    assert list(read_manifest(path, tolerate_cut=True)) == ["video1"]  # a kill may have cut it


@pytest.mark.parametrize("name", ["caf\u00e9", "caf\udce9", "\ud83d", "a\u2028b", 'q"\\', "\x85\x1b"])
def test_names_of_all_kinds_are_kept(tmp_path: Path, name: str) -> None:
    entry = Entry(name, f"videos/{name}.mp4", "bad", f"{name} cannot be read", warnings=[name])
    write_manifest(tmp_path / "manifest.jsonl", [entry])
    assert read_manifest(tmp_path / "manifest.jsonl") == {name: entry}


def test_a_manifest_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("pipe", "not a regular file"), ("absent", "No such file"), (".", "a folder")):
        with pytest.raises(DataError, match=told):
            read_manifest(tmp_path / name)
