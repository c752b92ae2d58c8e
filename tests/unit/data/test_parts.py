"""Clips that are parts of files: ids, moments with fractions of seconds, and what is cached of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petl_bench.data import sampling
from petl_bench.data.annotations import read_table, read_unquoted
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.cache import Clip, FrameCache, Profile
from petl_bench.data.describe import describe
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError
from petl_bench.inputs import FrameRule, Moment
from tests.unit.datamodules.test_msrvtt_qa import SPEC


class Steps(VideoTextDataModule):
    """Three clips of each of four recipes; of the fifth, the test split."""

    name = "steps"

    def __init__(self, root: Path, shared: str = "r5", **options: Any) -> None:
        super().__init__(root, spec=SPEC, max_words=12, num_workers=0, **options)
        self.shared = shared

    @property
    def protocol(self) -> Protocol:
        return Protocol("steps/v1", {"train": 12, "test": 3}, {}, files={"train": 4, "test": 1})

    def annotation_files(self) -> dict[str, Path]:
        return {}

    def annotations(self, split: Split) -> list[Sample]:
        recipes = {"train": ["r1", "r2", "r3", "r4"], "val": [], "test": [self.shared]}[split]
        return [
            Sample(f"{recipe}_{step}", (f"step {step}",), Moment(step, step + 1.5), file=recipe)
            for recipe in recipes
            for step in range(3)
        ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for recipe in range(1, 6):
        (tmp_path / f"videos/r{recipe}.mkv").touch()
    return tmp_path


def test_clips_of_one_file_are_told_apart_and_found(root: Path) -> None:
    data = Steps(root)
    data.setup("fit")
    assert [clip.path.name for clip in data.clips()][:4] == ["r1.mkv", "r1.mkv", "r1.mkv", "r2.mkv"]
    assert len(data.training_video_ids()) == 12
    assert data.video_names("test") == {"r5": ("r5",)}
    found = describe(data)["splits"]
    assert (found["train"]["videos"], found["train"]["clips"]) == (4, 12)


def test_a_test_video_of_which_another_part_is_trained_on_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="1 videos are in the training and in the test split"):
        Steps(root, shared="r2").setup("fit")


def test_whole_files_are_held_out(root: Path) -> None:
    data = Steps(root, val_videos=1)
    held = {sample.file for sample in data.samples("val")}
    assert (len(held), len(data.samples("val")), len(data.samples("train"))) == (1, 3, 9)
    assert not held & {sample.file for sample in data.samples("train")}


def test_files_are_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "protocol", Protocol("steps/v1", {"test": 3}, {}, files={"test": 2}))
    with pytest.raises(DataError, match="test split has 1 videos, expected 2"):
        Steps(root).samples("test")


def test_a_missing_file_is_named_once(root: Path) -> None:
    (root / "videos/r5.mkv").unlink()
    with pytest.raises(DataError, match=r"3 of 3 videos are not below .*: 'r5'[ ;]"):
        Steps(root).setup("test")
    assert describe(Steps(root))["splits"]["test"]["missing_files"] == 1


def test_two_files_of_one_name_are_still_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample("a", ("x",), names=("r1.mkv",)), Sample("b", ("y",), names=("r1.mkv",))]
    monkeypatch.setattr(Steps, "annotations", lambda self, split: samples)
    with pytest.raises(DataError, match="are both"):
        Steps(root, partial=True).setup("test")


# --- seconds ----------------------------------------------------------------------------------------------------------


def test_whole_seconds_are_whole_numbers() -> None:
    assert Moment(7.0, 15.0) == Moment(7, 15)
    assert isinstance(Moment(7.0).start, int)
    assert str(Moment(7.7, 15)) == "from second 7.7 to 15"
    for start, end in ((float("nan"), 3), (1, float("nan")), (2.5, 2.5), (-0.5, 1), (0, float("inf"))):
        with pytest.raises(ValueError, match="start < end"):
            Moment(start, end)


@pytest.mark.parametrize("times", [None, np.arange(601) / 30])
@pytest.mark.parametrize(
    ("moment", "rate", "frames"),
    [
        (Moment(7.7, 10.7), 1, [231, 261, 291, 321]),
        (Moment(7.7, 10), 1, [231, 261, 291]),
        (Moment(7, 9), 1, [210, 240, 270]),
        (Moment(7.5, 8.6), 2, [225, 240, 255]),  # none after the end
        (Moment(0.1, 0.3), None, [3, 4, 5, 6, 7, 8]),
        (Moment(19.9), 1, [597]),
        (Moment(20.5, 21), 1, []),
    ],
)
def test_frames_of_fractions_of_seconds(times: Any, moment: Moment, rate: int | None, frames: list[int]) -> None:
    assert sampling.frame_grid(600, 30.0, times, rate, moment).tolist() == frames


def test_cached_frames_of_whole_seconds_keep_their_name(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"any")
    cache = FrameCache(tmp_path, Profile.of(FrameRule(4, "uniform", 1), 32, "squash", "pyav"))
    ends = {
        moment: cache.entry(Clip(video, moment)).stem[64:] for moment in (Moment(7, 15), Moment(7.0), Moment(7.7, 15.0))
    }
    assert ends == {Moment(7, 15): "_7_15", Moment(7): "_7_end", Moment(7.7, 15): "_7.7_15"}


# --- tables -----------------------------------------------------------------------------------------------------------


def test_quotes_are_text_between_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'gif_name\tQuestion\tanswer\r\ng1\twhat is "it ?\tnone\r\n\r\ng2\t"a" b\tnull\r\ng3\tna\tNA\r\n')
    records = [record.values for record in read_unquoted(path, ("question", "answer"))]
    assert [record["question"] for record in records] == ['what is "it ?', '"a" b', "na"]
    assert [record["answer"] for record in records] == ["none", "null", "NA"]
    with pytest.raises(DataError, match="no column 'kind'"):
        read_unquoted(path, ("kind",))
    path.write_text("gif_name\tquestion\ng1\twhat?\ng2\n")
    with pytest.raises(DataError, match="line 3: 1 fields between tabs"):
        read_unquoted(path, ("question",))


def test_a_caption_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"caption": "  a man\\n and\\ta  dog \\n", "other": " \\n"}, {"end": 7.7}, {"end": true}]')
    first, second, third = read_table(path, ())
    assert first.caption("caption") == "a man and a dog"
    assert second.seconds("end") == 7.7
    for record, key, read in ((first, "other", "caption"), (third, "end", "seconds")):
        with pytest.raises(DataError, match=f"'{key}' is"):
            getattr(record, read)(key)
