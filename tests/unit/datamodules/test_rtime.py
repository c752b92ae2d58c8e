"""RTime: videos and their reverse in three protocols, the rewritings of training, and what is wrong with an entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.rtime import RTime, RTimeBinary
from petl_bench.data.batch import WhichWay
from petl_bench.data.describe import describe
from petl_bench.errors import DataError
from petl_bench.fixture import WRITERS
from petl_bench.testing import check_datamodule
from tests.unit.datamodules.test_msrvtt_qa import SPEC


def entry(forward: str, backward: str, **other: Any) -> dict[str, Any]:
    return {
        **{"temporal": True, "reverse": True, "forward_captions": [forward], "reverse_captions": [backward]},
        **{"forward_rewrites": [f"{forward}, again"], "reverse_rewrites": [f"{backward}, again"], "url": "u"},
        **other,
    }


DOOR = entry(" The door\nopens.  ", "The door closes.")
TRAIN = {"1": DOOR, "2": entry("it stays", "", reverse=False, reverse_captions=[], reverse_rewrites=[])}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path, **files: Any) -> Path:
    given = {"train": TRAIN, "valid": {"3": DOOR}, "test": {"4": DOOR, "5": entry("it falls", "it rises")}, **files}
    for name, entries in given.items():
        (folder / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def rtime(root: Path, **options: Any) -> RTime:
    return RTime(root, partial=True, spec=SPEC, max_words=12, **options)


def binary(root: Path) -> RTimeBinary:
    return RTimeBinary(root, partial=True, spec=SPEC, max_words=12)


def test_origin(root: Path) -> None:
    data = rtime(root)
    assert [(s.video, s.captions, s.reverse, s.file) for s in data.samples("test")] == [
        ("4", ("The door opens.",), False, ""),
        ("5", ("it falls",), False, ""),
    ]
    assert [s.video for s in data.samples("train")] == ["1", "2"]
    assert data.annotation_files()["val"] == root / "valid.json"


def test_hard_has_every_video_and_its_reverse(root: Path) -> None:
    data = rtime(root, split_protocol="hard")
    assert [(s.video, s.captions, s.reverse, s.file_id) for s in data.samples("test")] == [
        ("4", ("The door opens.",), False, "4"),
        ("4_reversed", ("The door closes.",), True, "4"),
        ("5", ("it falls",), False, "5"),
        ("5_reversed", ("it rises",), True, "5"),
    ]
    assert [s.video for s in data.samples("train")] == ["1", "1_reversed", "2"]
    assert data.video_names("test") == {"4": ("4",), "5": ("5",)}
    described = describe(data)["splits"]["test"]
    assert [described[key] for key in ("videos", "clips", "reversed", "captions")] == [2, 4, 2, 4]


def test_rewritings_are_for_training_alone(root: Path) -> None:
    data = rtime(root, split_protocol="hard", rewrites=True)
    assert [s.captions for s in data.samples("train")] == [
        ("The door opens.", "The door\nopens.  , again".replace("\n", " ").replace("  ,", " ,")),
        ("The door closes.", "The door closes., again"),
        ("it stays", "it stays, again"),
    ]
    assert all(len(s.captions) == 1 for split in ("val", "test") for s in data.samples(split))  # type: ignore[arg-type]


def test_binary_asks_by_captions_and_by_clips(root: Path) -> None:
    data = binary(root)
    forward, back, *_ = data.samples("test")
    assert (forward.video, forward.file, forward.reverse) == ("4", "4", False)
    assert (back.video, back.file, back.reverse) == ("4_reversed", "4", True)
    captions, clips = ("The door opens.", "The door closes."), ("4", "4_reversed")
    asked = [(q.id, q.type, q.choices, q.correct, q.options) for q in (*forward.questions, *back.questions)]
    assert asked == [
        ("4_v2t", "v2t", captions, 0, captions),
        ("4_t2v", "t2v", clips, 0, captions[:1]),
        ("4_reversed_t2v", "t2v", clips, 1, captions[1:]),
        ("4_reversed_v2t", "v2t", captions, 1, captions),
    ]
    assert [isinstance(q, WhichWay) for q in forward.questions] == [False, True, True]
    assert [s.video for s in data.samples("train")] == ["1", "1_reversed"]  # nothing is asked about the other


def test_one_caption_for_both_ways_ties_and_is_told(root: Path) -> None:
    write(root, test={"4": entry("it spins", "it spins ")})
    with pytest.warns(UserWarning, match="2 questions have an option twice, which tie: '4_v2t', '4_reversed_v2t'"):
        forward, _ = binary(root).samples("test")
    assert forward.questions[0].choices == ("it spins", "it spins")


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ([DOOR], "expected objects by video id"),
        ({}, "expected objects by video id"),
        ({"4": [1]}, "video '4': expected an object with forward_captions"),
        ({"4": entry("a", "b", forward_captions=[])}, "video '4': 'forward_captions' is .*not a list of captions"),
        ({"4": entry("a", "b", forward_captions=["a", 1])}, "video '4': 'forward_captions' is"),
        ({"4": entry("a", "b", reverse_captions=["b", "c"])}, "video '4': 2 captions in 'reverse_captions', one is"),
        ({"4": entry("a", "b", reverse=False)}, "video '4': 0 captions in 'reverse_captions', one is"),
        ({"4": entry("a", "b", reverse="no")}, "video '4': 'reverse' is 'no', not true or false"),
        ({"4": entry("a", " \n")}, "video '4': a text in 'reverse_captions' is blank"),
        ({"4_reversed": DOOR}, "an id that ends with _reversed is that of a clip in reverse"),
        ({"a/b": DOOR}, "is no file name"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told(test: Any, told: str, tmp_path: Path) -> None:
    write(tmp_path, test=test)
    for data in (rtime(tmp_path, split_protocol="hard"), binary(tmp_path)):
        with pytest.raises(DataError, match=rf"test\.json.*{told}"):
            data.samples("test")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_and_a_video_twice(encoding: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "test.json").write_bytes(json.dumps({"4": entry("café", "b")}, ensure_ascii=False).encode(encoding))
    with pytest.raises(DataError, match=r"test\.json.*UTF-8"):
        rtime(tmp_path).samples("test")
    one = json.dumps({"4": DOOR})
    (tmp_path / "test.json").write_text(one[:-1] + ", " + one[1:])
    with pytest.raises(DataError, match=r"test\.json.*4"):
        rtime(tmp_path).samples("test")
    (tmp_path / "test.json").write_text(f"\ufeff{one}\r\n", encoding="utf-8")
    assert len(rtime(tmp_path).samples("test")) == 1


def test_a_row_less_is_told(root: Path) -> None:
    with pytest.raises(DataError, match="rtime-hard/v1: test split has 4 clips, expected 2000"):
        RTime(root, split_protocol="hard").samples("test")
    with pytest.raises(DataError, match="rtime-binary/v1: val split has 2 clips, expected 1000"):
        RTimeBinary(root).samples("val")


def test_generated_data_keep_the_promises(tmp_path: Path) -> None:
    WRITERS["rtime"](tmp_path / "rtime", train_videos=8, test_videos=2, captions_per_video=2, size=32, seconds=1)
    for kind, options in ((RTime, "data/rtime.yaml"), (RTimeBinary, "data/rtime_binary.yaml")):
        check_datamodule(kind, tmp_path / "rtime", options, partial=True, frames=2, max_words=32)


def test_the_real_file(shared: Path) -> None:
    root = shared / "data/annotations_2/rtime"
    origin, hard = RTime(root, spec=SPEC, max_words=77), RTime(root, split_protocol="hard", spec=SPEC, max_words=77)
    assert len(origin.samples("test")) == 1000
    assert len(hard.samples("test")) == 2000
    assert not any("\n" in text or text != text.strip() for s in hard.samples("test") for text in s.captions)
    with pytest.warns(UserWarning, match="4 questions have an option twice"):
        questions = [q for s in RTimeBinary(root).samples("test") for q in s.questions]
    assert len(questions) == 4000
    assert sum(q.correct or 0 for q in questions) == 2000
