"""DiDeMo: videos by stem, paragraphs in two orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.didemo import DiDeMo
from petl_bench.errors import DataError, UsageError
from tests.unit.datamodules.files import found

FIRST, SECOND = "10015567@N08_3655084291_d8b58466fa", "10052357@N03_7585070382_5762149bfc"


def record(video: str, description: str, *times: tuple[int, int]) -> dict[str, Any]:
    return {"video": video, "description": description, "times": [list(t) for t in times], "num_segments": 6}


RECORDS = [
    record(f"{FIRST}.mov", "late\nin it. ", (4, 4), (4, 4), (0, 0), (4, 4)),
    record(f"{SECOND}.", " only one", (0, 0)),
    record(f"{FIRST}.mp4", "early", (1, 2), (0, 0), (0, 0), (5, 5)),  # the same video by another name
    record(f"{FIRST}.mov", "in  between", (1, 2), (1, 2), (0, 0)),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}_data.json").write_text(json.dumps(RECORDS))
    return tmp_path


def test_names_of_one_video_are_joined_in_the_order_of_the_file(root: Path) -> None:
    samples = DiDeMo(root, partial=True).samples("test")
    assert [(s.video, s.captions, s.moment.start, s.moment.end) for s in samples] == [
        (FIRST, ("late in it. early in between",), None, 31),
        (SECOND, ("only one",), None, 31),
    ]


def test_the_order_of_time_is_by_the_moment_that_most_chose(root: Path) -> None:
    data = DiDeMo(root, sentence_order="time", last_second=None, partial=True)
    assert data.samples("test")[0].captions == ("early in between late in it.",)
    assert data.samples("test")[0].moment.end is None
    assert data.protocol.id != DiDeMo(root).protocol.id


def test_a_list_restricts_the_file(root: Path) -> None:
    (root / "test_list.txt").write_text(f"{SECOND}.avi\n")
    assert [s.video for s in DiDeMo(root, test_list="test_list.txt", partial=True).samples("test")] == [SECOND]
    (root / "test_list.txt").write_text("nobody@N00_1_2.avi\n")
    with pytest.raises(DataError, match="nobody@N00"):
        DiDeMo(root, test_list="test_list.txt", partial=True).samples("test")


@pytest.mark.parametrize("name", [f"{FIRST}.mp4", f"{FIRST}.mov.mp4", f"{FIRST}..avi", f"{FIRST}.null", f"{FIRST}.3g2"])
def test_clips_are_found_by_any_spelling(root: Path, name: str) -> None:
    (root / "videos").mkdir()
    (root / "videos" / name).touch()
    assert found(DiDeMo(root, partial=True), FIRST) == root / "videos" / name


def test_the_name_in_the_annotations_decides_between_files_of_one_video(root: Path) -> None:
    (root / "videos").mkdir()
    given = RECORDS[0]["video"]
    for name in (given, f"{FIRST}.converted.mp4"):
        (root / "videos" / name).write_text(name)
    assert found(DiDeMo(root, partial=True), FIRST) == root / "videos" / given


def test_jsonl_of_paragraphs_is_in_the_order_of_time(root: Path) -> None:
    (root / "test.jsonl").write_text(json.dumps({"clip_id": FIRST, "text": ["a", "b"]}) + "\n")
    data = DiDeMo(root, test_file="test.jsonl", sentence_order="time", partial=True)
    assert data.samples("test")[0].captions == ("a b",)
    with pytest.raises(DataError, match="sentence_order time"):
        DiDeMo(root, test_file="test.jsonl", partial=True).samples("test")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"video": FIRST}, "record 0: 'description'"),
        (record(f"{FIRST}.mp4", " ", (0, 0)), "record 0: no description"),
        (record("../x.mp4", "text", (0, 0)), "record 0: video '../x.mp4' is no file name"),
        (record(f"{FIRST}.mp4", "text") | {"times": None}, "record 0: 'times' is missing"),
        (record(f"{FIRST}.mp4", "text", (2, 1)), "record 0: 'times' is .*, the first and the last of a moment"),
        (record(f"{FIRST}.mp4", "text", (-1, 1)), "record 0: 'times' is .*, the first and the last of a moment"),
        (record(f"{FIRST}.mp4", "text") | {"times": [[True, 1]]}, "record 0: 'times' is"),
        (record(f"{FIRST}.mp4", "text") | {"times": [[0, float("inf")]]}, "record 0: 'times' is"),
        (record(f"{FIRST}.mp4", "text") | {"times": {"0": 1}}, "record 0: 'times' is"),
        ({"clip_id": FIRST, "text": ["a", 3]}, "record 0: 'text' is"),
        ({"clip_id": 3, "text": ["a"]}, "record 0: 'clip_id' is 3, not text"),
        (record(f"{FIRST}.mp4", "text") | {"times": [[1]]}, "record 0: 'times' is .*, not pairs of segments"),
    ],
)
def test_a_wrong_record_is_named(root: Path, wrong: dict[str, Any], told: str) -> None:
    (root / "test_data.json").write_text(json.dumps([wrong]))
    with pytest.raises(DataError, match=told):
        DiDeMo(root, sentence_order="time", partial=True).samples("test")


def test_counts_are_those_of_the_protocol(root: Path) -> None:
    with pytest.raises(DataError, match="4 sentences, expected 4021"):
        DiDeMo(root).samples("test")
    with pytest.raises(UsageError, match="sentence_order"):
        DiDeMo(root, sentence_order="random")  # type: ignore[arg-type]  # wrong on purpose


def test_the_real_files(shared: Path) -> None:
    data = DiDeMo(shared / "data/annotations/didemo")
    assert (len(data.samples("test")), data.sentence_count("test")) == (1004, 4021)
    assert (len(data.checked("val")), data.sentence_count("val")) == (1065, 4180)


def test_the_order_of_time_is_that_of_the_published_paragraphs(shared: Path) -> None:
    root = shared / "data/annotations/didemo"
    ours = {s.video: s.captions for s in DiDeMo(root, sentence_order="time").samples("test")}
    options: dict[str, Any] = {"sentence_order": "time", "test_file": "text_proxy/test.jsonl", "partial": True}
    theirs = {s.video: s.captions for s in DiDeMo(root, **options).samples("test")}
    assert len(theirs) == 1002
    assert all(ours[video] == captions for video, captions in theirs.items())
