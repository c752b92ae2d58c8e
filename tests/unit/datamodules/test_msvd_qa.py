"""MSVD-QA: clips by number, by id and by file name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.msvd_qa import MSVDQA
from petl_bench.errors import DataError

CLIP = "-4wsuPCjDBc_5_15"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "youtube_mapping.txt").write_text(f"{CLIP} vid1\n-7KMZQEsJW4_205_208 vid2\n")
    return tmp_path


def ask(root: Path, *records: dict[str, Any], name: str = "test_qa.json") -> list[Any]:
    (root / name).write_text(json.dumps(records))
    return MSVDQA(root, test_file=name, partial=True).samples("test")


@pytest.mark.parametrize(
    "named",
    [{"video_id": 1}, {"video_id": "vid1"}, {"video_id": CLIP}, {"video": f"{CLIP}.avi"}, {"video": "vid1.mp4"}],
)
def test_a_clip_is_found_by_any_name(root: Path, named: dict[str, Any]) -> None:
    (sample,) = ask(root, {"question": "what eats a nut?", "answer": "squirrel", "id": 5} | named)
    assert (sample.video, sample.captions) == (CLIP, ("what eats a nut?",))
    assert [(q.id, q.type, q.answers) for q in sample.questions] == [(5, "what", ("squirrel",))]


@pytest.mark.parametrize(
    ("named", "told"),
    [({"video_id": 9}, "'vid9' is not in"), ({}, "names a clip"), ({"video_id": True}, "names a clip")],
)
def test_an_unknown_clip_is_named(root: Path, named: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=f"record 0.*{told}"):
        ask(root, {"question": "what?", "answer": "x"} | named)


def test_a_damaged_mapping_is_named(root: Path) -> None:
    (root / "youtube_mapping.txt").write_text(f"{CLIP} vid1\nvid2\n")
    with pytest.raises(DataError, match=r"youtube_mapping.txt, line 2"):
        ask(root, {"question": "what?", "answer": "x", "video_id": 1})


def test_the_real_files(shared: Path) -> None:
    data = MSVDQA(shared / "data/annotations/msvd_qa")
    counts = [sum(len(s.captions) for s in data.samples(split)) for split in ("train", "val", "test")]  # type: ignore[arg-type]  # splits
    assert counts == [30_933, 6_415, 13_157]
    assert "mapping" in data.annotation_files()
