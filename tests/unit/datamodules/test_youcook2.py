"""YouCook2: clips that are parts of videos, and the rows of MIL-NCE's test among them."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.youcook2 import YouCook2
from petl_bench.data.describe import describe
from petl_bench.errors import DataError, MissingFileError
from petl_bench.inputs import Moment
from tests.unit.data.test_parts import SPEC

JSON, CSV = "youcookii_annotations_trainval.json", "validation_youcook.csv"


def video(subset: str, *steps: tuple[int, int, str]) -> dict[str, Any]:
    annotations = [{"segment": [a, b], "id": n, "sentence": text} for n, (a, b, text) in enumerate(steps)]
    return {"duration": 60.5, "subset": subset, "recipe_type": "113", "annotations": annotations, "video_url": "u"}


DATABASE = {
    "-aaaaaaaaaa": video("training", (0, 9, "chop it"), (4, 12, " stir\n well ")),
    "bbbb_bbbb_b": video("validation", (1, 5, "heat, then fry"), (1, 5, "fry it"), (7, 61, "serve")),
    "ccccccccccc": video("validation", (2, 4, "fry it")),
    "ddddddddddd": {"duration": 1.0, "subset": "testing", "recipe_type": "1", "annotations": [], "video_url": "u"},
}
ROWS = 'end,start,task,text,video_id\n5,1,113,fry it,bbbb_bbbb_b\n5,1,113,"heat, then fry",bbbb_bbbb_b\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / JSON).write_text(json.dumps({"database": DATABASE}))
    (tmp_path / CSV).write_text(ROWS)
    return tmp_path


def youcook2(root: Path, **options: Any) -> YouCook2:
    return YouCook2(root, **{"partial": True, "spec": SPEC, **options})


def test_clips_of_the_official_file(root: Path) -> None:
    data = youcook2(root, split_protocol="validation")
    first, second = data.samples("train")
    assert (first.video, first.file, first.moment, first.captions) == (
        "-aaaaaaaaaa_0",
        *("-aaaaaaaaaa",),
        Moment(0, 9),
        ("chop it",),
    )
    assert (second.video, second.moment, second.captions) == ("-aaaaaaaaaa_1", Moment(4, 12), ("stir well",))
    assert [s.video for s in data.samples("test")] == [
        "bbbb_bbbb_b_0",
        "bbbb_bbbb_b_1",
        "bbbb_bbbb_b_2",
        "ccccccccccc_0",
    ]
    assert data.samples("val") == []
    assert data.video_names("test") == {"bbbb_bbbb_b": ("bbbb_bbbb_b",), "ccccccccccc": ("ccccccccccc",)}


def test_the_rows_of_mil_nce(root: Path) -> None:
    data = youcook2(root)
    assert [s.video for s in data.samples("test")] == ["bbbb_bbbb_b_1", "bbbb_bbbb_b_0"]
    assert data.annotation_files() == {"annotations": root / JSON, "test_list": root / CSV}
    (root / "youcookii_val.csv").write_text("video_id,feature_file\nccccccccccc,x.npy\n")
    univl = youcook2(root, test_list="youcookii_val.csv")
    assert [s.video for s in univl.samples("test")] == ["ccccccccccc_0"]
    (root / CSV).unlink()
    with pytest.raises(MissingFileError, match=r"validation_youcook\.csv: get MIL-NCE's"):
        youcook2(root).samples("test")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("5,1,113,fry it,bbbb_bbbb_b", "line 4: clip 'bbbb_bbbb_b_1' is listed twice .see .*line 2"),
        ("5,1,113,fry them,bbbb_bbbb_b", r"line 4: seconds 1 to 5 of .* not described so .*'heat, then fry'"),
        ("6,1,113,fry it,bbbb_bbbb_b", "line 4: seconds 1 to 6 of 'bbbb_bbbb_b' are not described so"),
        ("12,4,113,stir well,-aaaaaaaaaa", "line 4: '-aaaaaaaaaa' is no video of the validation split"),
        ("x,1,113,fry it,bbbb_bbbb_b", "line 4: 'end' is 'x', not a whole number"),
        ("5,1,113,fry it", "line 4: 4 fields, the header has 5"),
    ],
)
def test_wrong_rows(root: Path, row: str, told: str) -> None:
    (root / CSV).write_text(ROWS + row + "\n")
    with pytest.raises(DataError, match=told):
        youcook2(root).samples("test")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v.update(subset="train"), "'subset' is 'train', not one of training"),
        (lambda v: v.update(annotations=[]), r"'annotations' is \[\], not a list"),
        (lambda v: v.update(duration=None), "'duration' is missing"),
        (lambda v: v["annotations"][0].update(segment=[5, 5]), "annotation 0: 'segment' is .*, not two whole seconds"),
        (lambda v: v["annotations"][0].update(segment=[5, 6.5]), "annotation 0: 'segment' is"),
        (
            lambda v: v["annotations"][2].update(segment=[5, 62]),
            "annotation 2: it ends at second 62, and its video at 60.5",
        ),
        (lambda v: v["annotations"][1].update(id=0), "video 'bbbb_bbbb_b_0' is listed 2 times"),
        (lambda v: v["annotations"][1].update(sentence=" \n"), "annotation 1: 'sentence' is blank"),
    ],
)
def test_wrong_records(root: Path, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    database = json.loads(json.dumps(DATABASE))
    change(database["bbbb_bbbb_b"])
    (root / JSON).write_text(json.dumps({"database": database}))
    with pytest.raises(DataError, match=told):
        youcook2(root, split_protocol="validation").samples("test")


def test_another_file_is_refused(root: Path) -> None:
    (root / JSON).write_text('{"val": {}}')
    with pytest.raises(DataError, match="expected videos by id in 'database'"):
        youcook2(root).samples("train")


def test_the_real_file(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/annotations_2/youcook2"
    splits = describe(youcook2(root, split_protocol="validation", partial=False))["splits"]
    assert (splits["train"]["videos"], splits["train"]["clips"], splits["train"]["captions"]) == (1333, 10_337, 10_337)
    assert (splits["test"]["videos"], splits["test"]["clips"], splits["test"]["duplicates"]) == (457, 3492, 81)
    usual = describe(youcook2(root, partial=False))["splits"]
    assert "validation_youcook.csv" in usual["test"]["missing"]
    assert usual["train"]["clips"] == 10_337
    samples = youcook2(root, split_protocol="validation").samples("test")
    # MIL-NCE's list is not among the files: one of as many clips and videos stands for it.
    sizes, rng = Counter(sample.file for sample in samples), random.Random(0)
    draws = (set(rng.sample(sorted(sizes), 21)) for _ in range(10_000))
    left_out = next(videos for videos in draws if sum(sizes[video] for video in videos) == 3492 - 3350)
    rows = [
        [sample.moment.end, sample.moment.start, "1", sample.captions[0], sample.file]
        for sample in samples
        if sample.file not in left_out
    ]
    with (tmp_path / "some.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["end", "start", "task", "text", "video_id"], *rows])
    data = YouCook2(root, test_list=str(tmp_path / "some.csv"), spec=SPEC)
    assert len(data.samples("test")) == 3350
    with (tmp_path / "some.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["end", "start", "task", "text", "video_id"], *rows[1:]])
    with pytest.raises(DataError, match="youcook2-mil-nce/v1: test split has 3349 clips, expected 3350"):
        YouCook2(root, test_list=str(tmp_path / "some.csv"), spec=SPEC).samples("test")
