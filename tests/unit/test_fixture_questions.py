"""The generated questions: layout of MSRVTT-QA, true answers, splits of disjoint combinations."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from petl_bench.fixture import write_fixture
from petl_bench.fixture.scenes import COLOURS, DIRECTIONS, QUESTIONS, SHAPES, Scene

SPLITS = ("train", "val", "test")
NUM_TRAIN, NUM_TEST = 32, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "fixture"
    write_fixture(path, train_videos=NUM_TRAIN, test_videos=NUM_TEST, captions_per_video=1, size=32, seconds=1)
    return path


@pytest.fixture(scope="module")
def questions(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: json.loads((folder / f"{split}_qa.json").read_text(encoding="utf-8")) for split in SPLITS}


@pytest.fixture(scope="module")
def scenes(folder: Path) -> dict[int, Scene]:
    """What each clip shows, read from its caption."""
    found = {}
    for row in json.loads((folder / "MSRVTT_data.json").read_text(encoding="utf-8"))["sentences"]:
        words = re.findall("[a-z]+", row["caption"])
        (colour,), (shape,) = set(words) & set(COLOURS), set(words) & set(SHAPES)
        first, second = (word for word in words if word in DIRECTIONS)
        found[int(row["video_id"].removeprefix("video"))] = Scene(colour, shape, first, second)
    return found


def test_records_are_those_of_msrvtt_qa(questions: dict[str, list[dict[str, Any]]]) -> None:
    every = [record for split in SPLITS for record in questions[split]]
    assert all(set(record) == {"category_id", "video_id", "answer", "id", "question"} for record in every)
    assert sorted(record["id"] for record in every) == list(range((NUM_TRAIN + NUM_TEST) * len(QUESTIONS)))
    assert {type(record["video_id"]) for record in every} == {int}
    assert all(record["question"].endswith("?") for record in every)


def test_splits(questions: dict[str, list[dict[str, Any]]], folder: Path, scenes: dict[int, Scene]) -> None:
    videos = {split: {record["video_id"] for record in questions[split]} for split in SPLITS}
    with (folder / "MSRVTT_val.full.csv").open(encoding="utf-8", newline="") as file:
        assert {f"video{n}" for n in videos["val"]} == {row["video_id"] for row in csv.DictReader(file)}
    assert videos["test"] == set(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST))
    assert videos["train"] == set(range(NUM_TRAIN)) - videos["val"]
    shown = {split: {scenes[video] for video in videos[split]} for split in SPLITS}
    assert not shown["test"] & (shown["train"] | shown["val"])


def test_answers_are_true(questions: dict[str, list[dict[str, Any]]], scenes: dict[int, Scene]) -> None:
    for record in (record for split in SPLITS for record in questions[split]):
        scene, question, answer = scenes[record["video_id"]], record["question"], record["answer"]
        if "colour" in question:
            assert (scene.shape in question, answer) == (True, scene.colour)
        elif "shape" in question:
            assert answer == scene.shape
        else:
            assert f"{scene.colour} {scene.shape}" in question
            assert answer == (scene.first if "first" in question else scene.second)


def test_each_clip_is_asked_everything_once(questions: dict[str, list[dict[str, Any]]]) -> None:
    for split in SPLITS:
        assert set(Counter(record["video_id"] for record in questions[split]).values()) == {len(QUESTIONS)}
        types = Counter(record["question"].split()[0] for record in questions[split])
        assert types["what"] == types["which"] == len(questions[split]) / 2
