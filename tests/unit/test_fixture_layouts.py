"""Layouts of other datasets: the same bytes each time, the quirks of the real files, every clip readable."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest

from petl_bench.data.video import open_video
from petl_bench.fixture import MARK, WRITERS
from petl_bench.fixture.msrvtt import write_fixture, write_stills

LAYOUTS = [name for name, writer in WRITERS.items() if writer not in (write_fixture, write_stills)]
SIZES = {"train_videos": 12, "test_videos": 4, "size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    for name in LAYOUTS:
        WRITERS[name](root / name, **SIZES)
    return {name: root / name for name in LAYOUTS}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_arguments_give_the_same_files(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "again", **SIZES)
    found = digests(folders[name])
    assert found == digests(tmp_path / "again")
    assert MARK in found
    WRITERS[name](tmp_path / "other", seed=1, **SIZES)
    assert found != digests(tmp_path / "other")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_clip_can_be_read(name: str, folders: dict[str, Path]) -> None:
    root = folders[name] / ("videos" if (folders[name] / "videos").is_dir() else "images")
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) >= 16
    for path in files:
        with open_video(path) as video:
            assert video.info.num_frames == (1 if root.name == "images" else 18)
            assert video.read([video.info.num_frames - 1]).shape == (1, 32, 32, 3)


def test_msvd(folders: dict[str, Path]) -> None:
    captions = pickle.loads((folders["msvd"] / "raw-captions.pkl").read_bytes())  # our own file
    train = (folders["msvd"] / "train_list.txt").read_text().splitlines()
    assert train[0].startswith("-")
    assert train[1].startswith("v_")
    assert all(isinstance(word, str) for tokens in captions[train[0]] for word in tokens)
    assert len({len(texts) for texts in captions.values()}) > 1


def test_didemo_has_a_video_under_two_names(folders: dict[str, Path]) -> None:
    names = {record["video"] for record in json.loads((folders["didemo"] / "train_data.json").read_text())}
    stems = [name.partition(".")[0] for name in names]
    assert len(set(stems)) < len(stems)
    assert any(name.endswith(".") for name in names)


def test_activitynet_has_ids_without_captions(folders: dict[str, Path]) -> None:
    listed = json.loads((folders["activitynet"] / "train_ids.json").read_text())
    described = json.loads((folders["activitynet"] / "train.json").read_text())
    assert set(described) < set(listed)
    assert {path.suffix for path in (folders["activitynet"] / "videos").iterdir()} == {".mp4", ".mkv", ".webm"}


def test_lsmdc_has_no_header_and_several_rows_for_a_clip(folders: dict[str, Path]) -> None:
    rows = (folders["lsmdc"] / "LSMDC16_annos_training.csv").read_text().splitlines()
    clips = [row.split("\t")[0] for row in rows]
    assert all(row.count("\t") == 5 for row in rows)
    assert len(set(clips)) < len(clips)


def test_vqav2_has_ten_answers_and_a_test_part_without(folders: dict[str, Path]) -> None:
    records = json.loads((folders["vqav2"] / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    assert all(len(record["answers"]) == 10 for record in records)
    assert not (folders["vqav2"] / "v2_mscoco_test2015_annotations.json").exists()
    assert (folders["vqav2"] / "v2_OpenEnded_mscoco_test2015_questions.json").is_file()
    known = set(json.loads((folders["vqav2"] / "answer_list.json").read_text()))
    assert {"yes", "no", "1", "red"} <= known


@pytest.mark.parametrize("name", ["coco", "flickr30k"])
def test_captions_are_text_in_training_and_lists_elsewhere(name: str, folders: dict[str, Path]) -> None:
    stem = "coco_karpathy" if name == "coco" else name
    train, test = (json.loads((folders[name] / f"{stem}_{split}.json").read_text()) for split in ("train", "test"))
    assert all(isinstance(row["caption"], str) for row in train)
    assert all(isinstance(row["caption"], list) for row in test)
