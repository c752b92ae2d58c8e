"""Clips in reverse: the frames of the clip turned round, from one cached clip, and named apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.custom import Custom
from petl_bench.data.augmentation import RandAugment
from petl_bench.data.build_cache import build
from petl_bench.data.cache import FrameCache
from petl_bench.data.datasets import ClipLoader, EvaluationDataset, TrainingDataset, collate
from petl_bench.data.describe import describe
from petl_bench.data.samples import Sample
from petl_bench.errors import DataError
from petl_bench.fixture import write_fixture
from petl_bench.inputs import Clips, FrameRule, Moment, Sampling
from tests.unit.data.test_datasets import SPEC
from tests.unit.datamodules.test_msrvtt_qa import SPEC as WORDS

FORWARD = Sample("a", ("caption 0",), file="a")
BACK = replace(FORWARD, video="a_reversed", captions=("caption 1",), reverse=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reverse") / "fixture"
    write_fixture(folder, train_videos=4, test_videos=1, captions_per_video=1, size=32, seconds=2)
    return folder / "videos/video0.mp4"


def loader(sampling: Sampling = "uniform", rate: int | None = None, count: int = 5) -> ClipLoader:
    return ClipLoader(FrameRule(count, sampling, rate), 32, "shorter_side_crop", "pyav")


def assert_turned(found: Clips, of: Clips) -> None:
    real = int(of.mask.sum())
    assert found.mask.equal(of.mask)
    assert found.frames[:real].equal(of.frames[:real].flip(0))
    assert found.frames[real:].eq(0).all()
    assert not found.frames.equal(of.frames)
    ends = of.times[0] + of.times[real - 1]
    torch.testing.assert_close(found.times[:real], ends - of.times[:real].flip(0))
    assert found.times[real:].eq(0).all()


@pytest.mark.parametrize("count", [5, 30])  # with padding
@pytest.mark.parametrize("sampling", ["head", "uniform", "left_edge", "segment_middle", "tail"])
def test_the_chosen_frames_are_turned_round(sampling: Sampling, count: int, clip: Path) -> None:
    read = loader(sampling, count=count)
    assert_turned(read.load(clip, BACK), read.load(clip, FORWARD))


def test_of_a_part_of_a_file_and_of_augmented_frames(clip: Path) -> None:
    part = Moment(0.5, 1.5)
    read = loader()
    assert_turned(read.load(clip, replace(BACK, moment=part)), read.load(clip, replace(FORWARD, moment=part)))

    def augment(frames: np.ndarray) -> np.ndarray:
        return RandAugment("rand-m7-n4-mstd0.5-inc1")(frames, seed=3)

    assert_turned(read.load(clip, BACK, augment=augment), read.load(clip, FORWARD, augment=augment))


def test_one_cached_clip_serves_both(clip: Path, tmp_path: Path) -> None:
    decoding = loader("segment_middle", 4)
    cache = FrameCache(tmp_path, decoding.profile)
    cached = replace(decoding, cache=cache)
    data = Custom(clip.parent.parent, partial=True, spec=WORDS, frames=5, frame_rate=4, num_workers=0)
    rows = "video,caption,reverse\nvideo0,it goes,\nvideo0,it comes,yes\n"
    for split in ("train", "test"):
        (data.root / f"{split}.csv").write_text(rows)
    (own,) = data.clips()
    outcomes = build(cache, [own], 0, False)
    assert [one.did for one in outcomes] == ["decoded"]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    for sample in (FORWARD, BACK):
        for found, wanted in zip(cached.load(clip, sample), decoding.load(clip, sample), strict=True):
            assert found.equal(wanted)


def test_under_random_sampling_both_have_the_same_frames_in_evaluation(clip: Path) -> None:
    other = Sample("b", ("caption 2",))
    data = EvaluationDataset([other, FORWARD, BACK], [clip] * 3, loader("segment_random"), SPEC, 6, False)
    first, forward, back = (data[place].clip for place in range(3))
    assert_turned(back, forward)
    assert not first.frames.equal(forward.frames)


def test_training_rows(clip: Path) -> None:
    data = TrainingDataset([(FORWARD, clip), (BACK, clip)], loader(), True, SPEC, 6, 0, False)
    assert_turned(data[0, 1].clip, data[0, 0].clip)


def test_a_batch_has_both(clip: Path) -> None:
    data = EvaluationDataset([FORWARD, BACK], [clip, clip], loader(), SPEC, 6, False)
    for place, row in enumerate(data.__getitems__([0, 1])):
        for found, wanted in zip(row.clip, data[place].clip, strict=True):
            assert found.equal(wanted)


def test_reversing_batches_and_clips_is_one_thing(clip: Path) -> None:
    data = EvaluationDataset([FORWARD, BACK], [clip, clip], loader(count=30), SPEC, 6, False)
    batch = collate([data[0], data[1]]).clips
    turned = batch.reversed()
    assert turned.frames.equal(batch.frames.flip(0))
    torch.testing.assert_close(turned.times, batch.times.flip(0))
    blank = collate([EvaluationDataset([BACK], [None], loader(), SPEC, 6, True)[0]]).clips
    assert all(one.equal(other) for one, other in zip(blank.reversed(), blank, strict=True))


# --- own clips --------------------------------------------------------------------------------------------------------


def custom(root: Path, **rows: str) -> Custom:
    (root / "videos").mkdir(exist_ok=True)
    for split in ("train", "test"):
        (root / f"{split}.csv").write_text("video,caption,reverse\n" + rows.get(split, f"{split}.mp4,x,\n"))
    return Custom(root, spec=WORDS, max_words=12, num_workers=0)


def test_a_column_says_which_captions_are_of_the_clip_in_reverse(tmp_path: Path) -> None:
    data = custom(tmp_path, test="a.mp4,it opens,no\na.mp4,it closes,Yes\nb.mp4,it turns,\na.mp4,it shuts,1\n")
    found: list[Any] = [(s.video, s.captions, s.reverse, s.file, s.file_id) for s in data.samples("test")]
    assert found == [
        ("a", ("it opens",), False, "a", "a"),
        ("a_reversed", ("it closes", "it shuts"), True, "a", "a"),
        ("b", ("it turns",), False, "", "b"),
    ]
    assert data.video_names("test") == {"a": ("a.mp4",), "b": ("b.mp4",)}
    described = describe(data)["splits"]["test"]
    assert {key: described[key] for key in ("videos", "clips", "reversed", "missing_files")} == {
        **{"videos": 2, "clips": 3, "reversed": 1, "missing_files": 2}
    }
    for name in ("a.mp4", "b.mp4", "train.mp4"):
        (tmp_path / "videos" / name).touch()
    again = custom(tmp_path, test="a.mp4,it opens,no\na.mp4,it closes,Yes\n")
    again.setup("fit")
    assert len(again.clips()) == 2


def test_what_is_no_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test.csv, line 2: 'reverse' is 'perhaps', not yes or no"):
        custom(tmp_path, test="a.mp4,it opens,perhaps\n").samples("test")


def test_ids_are_unique(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a_reversed' is listed 2 times"):
        custom(tmp_path, test="a.mp4,it opens,yes\na_reversed.mp4,it opens,\n").samples("test")


def test_what_is_trained_on_in_reverse_is_seen(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / name).touch()
    data = custom(tmp_path, train="a.mp4,it opens,yes\nb.mp4,x,\n", test="a.mp4,it closes,\n")
    with pytest.raises(DataError, match="1 videos are in the training and in the test split: 'a'"):
        data.setup("fit")
    data = custom(tmp_path, train="a.mp4,it opens,yes\na.mp4,it shuts,\n", test="b.mp4,it closes,\n")
    data.setup("fit")
    assert data.training_video_ids() == ["a_reversed", "a"]
    assert data.training_file_ids() == ["a"]
