"""MSVD: the field's files as they are, and a pickle that is read without running anything."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.msvd import MSVD
from petl_bench.data.plain_pickle import read_plain_pickle
from petl_bench.errors import DataError

LISTS = {"train": ["-wa0umYJVGg_1_9", "aB_c-dEfGhi_10_25"], "val": ["00000000000_0_5"], "test": ["v_234567890_3_4"]}
CAPTIONS = {
    video: [["a", "cat", f"{n}"] for n in range(2 + number)]
    for number, video in enumerate(video for videos in LISTS.values() for video in videos)
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, videos in LISTS.items():
        (tmp_path / f"{split}_list.txt").write_text("\n".join(videos))  # CLIP2Video's have no last newline
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(CAPTIONS, protocol=2))
    return tmp_path


def refused(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return str(caught.value)


def test_token_lists_of_the_pickle_are_joined(root: Path) -> None:
    data = MSVD(root, partial=True)
    assert [sample.video for sample in data.samples("train")] == LISTS["train"]
    assert data.samples("test")[0].captions == tuple(f"a cat {n}" for n in range(5))
    assert set(data.annotation_files()) == {"captions", "train_list", "val_list", "test_list"}


def test_json_of_strings_is_read_where_there_is_no_pickle(root: Path) -> None:
    (root / "raw-captions.pkl").unlink()
    assert "captions_msvd.json" in refused(MSVD(root, partial=True).samples, "test")
    strings = {video: [" ".join(tokens) for tokens in captions] for video, captions in CAPTIONS.items()}
    (root / "captions_msvd.json").write_text(json.dumps(strings))
    assert MSVD(root, partial=True).samples("val")[0].captions == ("a cat 0", "a cat 1", "a cat 2", "a cat 3")


def test_counts_are_those_of_the_protocol(root: Path) -> None:
    assert "expected 670" in refused(MSVD(root).samples, "test")


def test_a_video_without_captions_is_named(root: Path) -> None:
    (root / "test_list.txt").write_text("v_234567890_3_4\nnobody_knows_1_2\n")
    assert "nobody_knows_1_2" in refused(MSVD(root, partial=True).samples, "test")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1, 2], "list"),
        ({"a_1_2": "text"}, "a_1_2"),
        ({"a_1_2": [["a", 3]]}, "a_1_2"),
        ({3: [["a"]]}, "3"),
    ],
)
def test_another_shape_is_refused(root: Path, value: Any, told: str) -> None:
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(value))
    assert told in refused(MSVD(root, partial=True).samples, "test")


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_runs_code_runs_none(tmp_path: Path, protocol: int) -> None:
    path, mark = tmp_path / "captions.pkl", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"a": [Bomb(str(mark))]}, protocol=protocol))
    assert "may run code" in refused(read_plain_pickle, path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html></html>", pickle.dumps(CAPTIONS)[:-20], b"(i__builtin__\neval\n.", b"cos\nsystem\n(S'true'\ntR."],
    ids=["empty", "html", "cut", "INST", "GLOBAL"],
)
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "captions.pkl"
    path.write_bytes(content)
    assert str(path) in refused(read_plain_pickle, path)


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    path.write_bytes(b"(dp0\nS'a_1_2'\np1\n(lp2\n(lp3\nS'caf\\xe9'\np4\naas.")
    assert read_plain_pickle(path) == {"a_1_2": [["café"]]}


HARMFUL = {
    "key whose hash takes for ever": b"\x80\x04})" + b"2\x86" * 60 + b"K\x01s.",
    "list that holds itself": b"\x80\x04}\x8c\x01a]q\x00h\x00as.",
    "list of many levels": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "entry of number 2**31": b"\x80\x04]r\xff\xff\xff\x7f.",
    "a terabyte that is announced": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_pickle_that_takes_memory_or_time(root: Path, name: str) -> None:
    (root / "raw-captions.pkl").write_bytes(HARMFUL[name])
    assert "raw-captions.pkl" in refused(MSVD(root, partial=True).samples, "test")


def test_keys_that_are_no_single_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.pkl"
    path.write_bytes(pickle.dumps({("a",): [["b"]]}))
    assert "a key of a dictionary is a tuple" in refused(read_plain_pickle, path)
    path.write_bytes(b"(S'a'\n(ld.")
    assert "as no writer does" in refused(read_plain_pickle, path)
    path.write_bytes(pickle.dumps({"a": {"b"}}))
    assert "no pickle of plain values" in refused(read_plain_pickle, path)


def test_a_pickle_that_explodes_is_refused(tmp_path: Path) -> None:
    value: list[Any] = ["a"] * 10
    for _ in range(12):
        value = [value] * 10
    path = tmp_path / "captions.pkl"
    path.write_bytes(pickle.dumps(value))
    assert path.stat().st_size < 1000
    assert "expands" in refused(read_plain_pickle, path)


def test_the_real_files(shared: Path) -> None:
    data = MSVD(shared / "data/annotations/msvd")
    for split, videos, captions in (("train", 1200, 48_774), ("val", 100, 4_290), ("test", 670, 27_763)):
        samples = data.samples(split)  # type: ignore[arg-type]  # a split
        assert (len(samples), sum(len(sample.captions) for sample in samples)) == (videos, captions)
