"""VATEX: every shape of its caption files, its tests by name, and ids of YouTube."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.vatex import VATEX
from petl_bench.data.describe import describe
from petl_bench.errors import DataError, MissingFileError
from tests.unit.data.test_parts import SPEC
from tests.unit.datamodules.files import found

LISTS = {
    "train": ["-_a-b_c-d_e_000000_000010", "AAAAAAAAAAA_000012_000022"],
    "val": ["BBBBBBBBBBB_000000_000010", "CCCCCCCCCCC_000000_000010"],
    "test": ["_234567890-_000100_000110", "DDDDDDDDDDD_000000_000010"],
}
IDS = [video for videos in LISTS.values() for video in videos]
CAPTIONS = {video: [f"a cat {n}" for n in range(1 + number % 3)] for number, video in enumerate(IDS)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, videos in LISTS.items():
        (tmp_path / f"{split}_list.txt").write_text("\n".join(videos) + "\n")
    (tmp_path / "ref_captions.json").write_text(json.dumps(CAPTIONS))
    return tmp_path


def vatex(root: Path, **options: Any) -> VATEX:
    return VATEX(root, **{"partial": True, "spec": SPEC, **options})


def official(videos: list[str]) -> str:
    return json.dumps([{"videoID": v, "enCap": CAPTIONS[v], "chCap": ["x"], "path": f"{v}.mp4"} for v in videos])


SHAPES = {
    "ref_captions.json": CAPTIONS,
    "vatex_data.json": {video: {"enCap": texts, "chCap": []} for video, texts in CAPTIONS.items()},
    "txt_mapper_en.json": {v: texts if len(texts) > 1 else texts[0] for v, texts in CAPTIONS.items()},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_the_same(name: str, root: Path) -> None:
    (root / "ref_captions.json").unlink()
    (root / name).write_text(json.dumps(SHAPES[name]))
    data = vatex(root)
    assert set(data.annotation_files()) == {"captions", "train_list", "val_list", "test_list"}
    for split, videos in LISTS.items():
        samples = data.samples(split)  # type: ignore[arg-type]  # a split
        assert [(s.video, list(s.captions)) for s in samples] == [(video, CAPTIONS[video]) for video in videos]


def test_the_official_files(root: Path) -> None:
    (root / "ref_captions.json").unlink()
    with pytest.raises(MissingFileError, match="vatex_training_v1"):
        vatex(root).samples("train")
    (root / "vatex_training_v1.0.json").write_text(official(LISTS["train"]))
    (root / "vatex_validation_v1.0.json").write_text(official(LISTS["val"] + LISTS["test"]))
    (root / "vatex_public_test_english_v1.1.json").write_text(official(LISTS["test"]))
    data = vatex(root)
    assert [s.video for s in data.samples("test")] == LISTS["test"]
    assert [s.video for s in data.samples("train")] == LISTS["train"]
    public = vatex(root, split_protocol="public")
    assert [s.video for s in public.samples("val")] == LISTS["val"] + LISTS["test"]
    assert [s.video for s in public.samples("test")] == LISTS["test"]


def test_ids_with_strokes_are_found(root: Path) -> None:
    (root / "videos").mkdir()
    for video in IDS:
        (root / "videos" / f"{video}.mp4").touch()
    for split in LISTS:
        for video in LISTS[split]:
            assert found(vatex(root), video, split) == root / "videos" / f"{video}.mp4"  # type: ignore[arg-type]


def test_the_other_tests(root: Path) -> None:
    (root / "test1k5_sec_list.txt").write_text("\n".join((LISTS["test"][0], LISTS["val"][0])))
    data = vatex(root, split_protocol="random-1k5")
    assert [s.video for s in data.samples("val")] == LISTS["val"][1:]
    assert data.protocol.id == "vatex-random-1k5/v1"
    (root / "val_list_split1.txt").write_text("\n".join(LISTS["val"]))
    (root / "val_list_split2.txt").write_text("\n".join(LISTS["test"]))
    joined = vatex(root, split_protocol="joined")
    assert joined.samples("val")[0].captions == ("a cat 0 a cat 1 a cat 2",)
    assert len(joined.samples("train")[1].captions) == 2
    (root / "test_1k_list.json").write_text(json.dumps(LISTS["test"]))
    first = vatex(root, split_protocol="public-1k", test_list="test_1k_list.json")
    assert [s.captions for s in first.samples("test")] == [("a cat 0",), ("a cat 0",)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("DDDDDDDDDDD", r"test_list.txt, line 3: 'DDDDDDDDDDD' is no <YouTube id>"),
        ("DDDDDDDDDDD_000000_000010", "line 3: 'DDDDDDDDDDD_000000_000010' is listed twice .see line 2"),
        ("EEEEEEEEEEE_000000_000010", "1 videos of test_list.txt have no caption, 'EEEE"),
    ],
)
def test_wrong_lines(root: Path, line: str, told: str) -> None:
    with (root / "test_list.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=told):
        vatex(root).samples("test")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "expected captions by id"),
        ([1], "record 0: 'videoID' is missing"),
        ([{"videoID": IDS[0]}], "record 0: 'enCap' is missing"),
        ([{"videoID": IDS[0], "enCap": "a"}] * 2, "record 1: .* has captions above, too"),
        ({IDS[0]: ["a", " \n"]}, "caption 1 is blank"),
        ({IDS[0]: [1]}, "text or a list of texts"),
    ],
)
def test_another_shape_is_refused(root: Path, value: Any, told: str) -> None:
    (root / "ref_captions.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=told):
        vatex(root).samples("test")


def test_latin_1_and_marks(root: Path) -> None:
    (root / "test_list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LISTS["test"]).encode())
    assert [s.video for s in vatex(root).samples("test")] == LISTS["test"]
    (root / "ref_captions.json").write_bytes(json.dumps({IDS[0]: ["caf\u00e9"]}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        vatex(root).samples("train")


def test_counts_are_those_of_the_protocol(root: Path) -> None:
    with pytest.raises(DataError, match="vatex-hgr/v1: test split has 2 videos, expected 1500"):
        vatex(root, partial=False).samples("test")


def test_the_real_lists(shared: Path, tmp_path: Path) -> None:
    """Its caption files are not in circulation as repositories hold them, so ten made captions stand for each video."""
    root, sizes = shared / "data/annotations_2/vatex", {"train": 25_991, "val": 1500, "test": 1500}
    counted = describe(vatex(root, partial=False))["splits"]
    assert {split: part["videos"] for split, part in counted.items()} == sizes
    assert all("none of ref_captions.json" in part["missing"] for part in counted.values())
    ids = {split: vatex(root).video_ids(split) for split in ("train", "val", "test")}
    assert not set(ids["test"]) & {*ids["train"], *ids["val"]}
    assert [sum(video[0] == "-" for video in ids[split]) for split in ("test", "val", "train")] == [36, 37, 646]
    captions = {video: [f"caption {n}" for n in range(10)] for videos in ids.values() for video in videos}
    (tmp_path / "vatex_data.json").write_text(json.dumps({v: {"enCap": texts} for v, texts in captions.items()}))
    lists = {f"{split}_list": str(root / f"{split}_list.txt") for split in ids}
    data = VATEX(tmp_path, **lists)  # type: ignore[arg-type]  # names of files
    assert sum(len(sample.captions) for sample in data.samples("train")) == 259_910
    assert sum(len(sample.captions) for sample in data.samples("test")) == 15_000
