"""COCO and Flickr30K: BLIP's lists, Karpathy's own file, lists without captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.coco import COCO
from datamodules.flickr30k import Flickr30K
from petl_bench.errors import DataError
from tests.unit.datamodules.files import found

FIRST, SECOND = "COCO_val2014_000000391895", "COCO_train2014_000000057870"


def test_blip_s_lists(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": f"val2014/{FIRST}.jpg", "caption": "one", "image_id": "coco_391895"},
        {"image": f"train2014/{SECOND}.jpg", "caption": "two", "image_id": "coco_57870"},
        {"image": f"val2014/{FIRST}.jpg", "caption": "three", "image_id": "coco_391895"},
    ]
    (tmp_path / "coco_karpathy_train.json").write_text(json.dumps(rows))
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps([{"image": rows[0]["image"], "caption": ["a", "b"]}]))
    data = COCO(tmp_path, partial=True)
    assert [(s.video, s.captions) for s in data.checked("train")] == [(FIRST, ("one", "three")), (SECOND, ("two",))]
    assert [(s.video, s.captions) for s in data.checked("test")] == [(FIRST, ("a", "b"))]


@pytest.mark.parametrize("folder", ["val2014", "", "coco/val2014", "elsewhere"])
def test_images_are_found_in_any_folder(tmp_path: Path, folder: str) -> None:
    rows = [{"image": f"val2014/{FIRST}.jpg", "caption": "a"}]
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps(rows))
    path = tmp_path / "images" / folder / f"{FIRST}.jpg"
    path.parent.mkdir(parents=True)
    path.touch()
    assert found(COCO(tmp_path, videos="images", partial=True), FIRST) == path


def test_the_path_in_the_annotations_decides_between_two_images(tmp_path: Path) -> None:
    images = [{"filepath": "val2014", "filename": f"{FIRST}.jpg", "split": "test", "sentences": [{"raw": "One."}]}]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    for folder in ("val2014", "thumbs"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / f"{FIRST}.jpg").write_text(folder)
    data = COCO(tmp_path, videos="images", karpathy_file="dataset_coco.json", partial=True)
    assert found(data, FIRST) == tmp_path / "images" / "val2014" / f"{FIRST}.jpg"


def test_karpathy_s_own_file(tmp_path: Path) -> None:
    images = [
        {"filename": f"{FIRST}.jpg", "split": "restval", "sentences": [{"raw": "One."}, {"raw": "Two."}]},
        {"filename": f"{SECOND}.jpg", "split": "test", "sentences": [{"raw": "Three.", "sentid": 73}]},
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    data = COCO(tmp_path, karpathy_file="dataset_coco.json", partial=True)
    assert [(s.video, s.captions) for s in data.checked("train")] == [(FIRST, ("One.", "Two."))]
    assert [(s.video, s.captions, s.caption_ids) for s in data.checked("test")] == [(SECOND, ("Three.",), ("73",))]
    assert data.checked("val") == []


@pytest.mark.parametrize(
    ("row", "told"),
    [
        *(
            ({"caption": "a"}, "'image'"),
            ({"image": "a.jpg", "caption": 3}, "'caption'"),
            ({"image": "a.jpg"}, "'caption'"),
        ),
        *(({"image": "a.jpg", "caption": []}, "'caption'"), ({"image": "a.jpg", "caption": ["a", None]}, "'caption'")),
        ({"image": 3, "caption": "a"}, "'image' is 3"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=f"record 0: {told}"):
        COCO(tmp_path, partial=True).checked("test")


@pytest.mark.parametrize(("kind", "images", "told"), [(COCO, 82_783, "restval"), (Flickr30K, 29_783, "Entities")])
def test_a_wrong_split_is_recognised(tmp_path: Path, kind: type[COCO | Flickr30K], images: int, told: str) -> None:
    rows = [{"image": f"{n}.jpg", "caption": "a"} for n in range(images)]
    (tmp_path / kind.file_names["train"]).write_text(json.dumps(rows))
    with pytest.raises(DataError, match=told):
        kind(tmp_path).checked("train")


def test_real_lists_of_images(shared: Path) -> None:
    data = COCO(shared / "data/annotations/coco_karpathy")
    counts = {split: len(set(data.video_ids(split))) for split in ("train", "val", "test")}  # type: ignore[arg-type]  # splits
    assert counts == {"train": 113_287, "val": 5_000, "test": 5_000}
    with pytest.raises(DataError, match=r"coco_karpathy_train\.json"):
        data.checked("train")
