"""ActivityNet Captions: paragraphs, the end of a video, ids with and without `v_`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.activitynet import ActivityNet
from petl_bench.errors import DataError

TRAIN = {
    "v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0, 5]], "sentences": ["A woman.", "  She\ndances."]},
    "v_v_234567890": {"duration": 12, "timestamps": [[9, 3]], "sentences": ["Piñata."]},
}
TEST = {"v_uqiMw7tQ1Cc": {"duration": 1.6, "timestamps": [], "sentences": ["A man lifts."]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    (tmp_path / "val_1.json").write_text(json.dumps(TEST))
    return tmp_path


def test_paragraphs_end_with_their_videos(root: Path) -> None:
    data = ActivityNet(root, partial=True)
    assert [(s.video, s.captions, s.moment.start, s.moment.end) for s in data.samples("train")] == [
        ("v_QOlSCBRmfWY", ("A woman. She dances.",), None, 83),
        ("v_v_234567890", ("Piñata.",), None, 12),
    ]
    assert data.samples("val") == []
    assert data.samples("test")[0].moment.end == 2


def test_files_are_found_with_and_without_their_prefix(root: Path) -> None:
    (root / "videos").mkdir()
    for name in ("v_QOlSCBRmfWY.mp4", "v_234567890.mkv", "uqiMw7tQ1Cc.webm"):
        (root / "videos" / name).touch()
    files = ActivityNet(root).clip_files()
    assert files
    paths = [files.find([video]) for video in ("v_QOlSCBRmfWY", "v_v_234567890", "v_uqiMw7tQ1Cc")]
    assert [path and path.name for path in paths] == ["v_QOlSCBRmfWY.mp4", "v_234567890.mkv", "uqiMw7tQ1Cc.webm"]


@pytest.mark.parametrize(
    ("name", "content"), [("ids.json", '["v_v_234567890", "v_nocaptions0"]'), ("ids.txt", "v_234567890\n")]
)
def test_ids_without_captions_are_no_videos(root: Path, name: str, content: str) -> None:
    (root / name).write_text(content)
    assert [s.video for s in ActivityNet(root, train_ids=name, partial=True).samples("train")] == ["v_v_234567890"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([], "list"),
        ({"v_a": []}, "v_a.*'sentences'"),
        ({"v_a": {"duration": 3, "sentences": []}}, "v_a.*'sentences'"),
        ({"v_a": {"duration": float("nan"), "sentences": ["A."]}}, "v_a.*'duration'"),
        ({"v_a": {"duration": 0, "sentences": ["A."]}}, "v_a.*'duration'"),
        ({"v_a": {"duration": True, "sentences": ["A."]}}, "v_a.*'duration' is True"),
        ({"v_a": {"duration": float("inf"), "sentences": ["A."]}}, "v_a.*'duration' is inf"),
        ({"v_a": {"duration": 10**400, "sentences": ["A."]}}, "v_a.*'duration' is 1000"),
        ({"v_a": {"duration": "9", "sentences": ["A."]}}, "v_a.*'duration' is '9'"),
        ({"v_a": {"duration": 9, "sentences": [" ", "\n"]}}, "v_a.*'sentences' are blank"),
        ({"v_a": {"duration": 9, "sentences": ["A.", 3]}}, "v_a.*'sentences' is"),
        ({"v_a": 3}, "v_a.*'sentences' is missing"),
    ],
)
def test_a_wrong_record_is_named(root: Path, wrong: Any, told: str) -> None:
    (root / "val_1.json").write_text(json.dumps(wrong))
    with pytest.raises(DataError, match=told):
        ActivityNet(root, partial=True).samples("test")


def test_the_real_files(shared: Path) -> None:
    root = shared / "data/annotations/activitynet"
    data = ActivityNet(root, train_ids="train_ids.json", test_ids="val_ids.json")
    assert (len(data.samples("train")), data.sentence_count("train")) == (10_009, 37_421)
    assert (len(data.samples("test")), data.sentence_count("test")) == (4_917, 17_505)
