"""Rows follow from their keys alone; gaps are an error, another training row, or a clip that ranks last."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from petl_bench.data.augmentation import RandAugment
from petl_bench.data.datasets import ClipLoader, EvaluationDataset, Row, TrainingDataset, collate
from petl_bench.data.samplers import EpochBatches
from petl_bench.data.samples import Sample
from petl_bench.data.video import VideoError
from petl_bench.errors import DataError
from petl_bench.fixture import write_fixture
from petl_bench.inputs import FrameRule, InputSpec, Sampling

SIZE, FRAMES, WORDS = 32, 3, 6


def first_letters(captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
    """Stands for a tokenizer: one number per caption that tells it from the others."""
    ids = torch.zeros(len(captions), max_words, dtype=torch.long)
    ids[:, 0] = torch.tensor([int(caption.removeprefix("caption ")) + 1 for caption in captions])
    return ids, ids > 0


SPEC = InputSpec(SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "shorter_side_crop", 77, first_letters)
SAMPLES = [
    Sample("video0", ("caption 0", "caption 1", "caption 2")),
    Sample("video1", ("caption 3",)),
    Sample("video2", ("caption 4", "caption 5")),
    Sample("video3", ("caption 6", "caption 7")),
]
COUNT = 8


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four clips and, as the last, a file that is none."""
    folder = tmp_path_factory.mktemp("datasets") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=2, captions_per_video=1, size=SIZE, seconds=2)
    broken = folder / "videos" / "broken.mp4"
    broken.write_bytes(b"no clip")
    return [*(folder / "videos" / f"{sample.video}.mp4" for sample in SAMPLES), broken]


def loader(sampling: Sampling = "uniform", rate: int | None = None) -> ClipLoader:
    return ClipLoader(FrameRule(FRAMES, sampling, rate), SIZE, "shorter_side_crop", "pyav")


def training(paths: list[Path], sampling: Sampling = "uniform", **options: Any) -> TrainingDataset:
    defaults = {"expand": True, "seed": 0, "tolerate": False}
    found = list(zip(SAMPLES, paths, strict=False))
    return TrainingDataset(found, loader(sampling), spec=SPEC, max_words=WORDS, **{**defaults, **options})


def evaluation(
    paths: Sequence[Path | None], tolerate: bool = False, sampling: Sampling = "uniform"
) -> EvaluationDataset:
    return EvaluationDataset(SAMPLES, list(paths)[: len(SAMPLES)], loader(sampling), SPEC, WORDS, tolerate)


def same(first: Row, second: Row) -> bool:
    rest = (first.video_index, list(first.text_index)) == (second.video_index, list(second.text_index))
    pairs = zip((*first.clip, *first.words[:2]), (*second.clip, *second.words[:2]), strict=True)
    return rest and all(torch.equal(*pair) for pair in pairs)


def caption(row: Row) -> int:
    return int(row.words.ids[0, 0]) - 1


# --- training --------------------------------------------------------------------------------------------------------


def test_one_row_per_caption(paths: list[Path]) -> None:
    rows = [training(paths)[0, index] for index in range(len(training(paths)))]
    assert [caption(row) for row in rows] == list(range(COUNT))
    assert [list(row.text_index) for row in rows] == [[index] for index in range(COUNT)]
    assert [row.video_index for row in rows] == [0, 0, 0, 1, 2, 2, 3, 3]
    for row in rows:
        assert row.clip.frames.shape == (FRAMES, 3, SIZE, SIZE)
        assert row.clip.frames.dtype == torch.uint8
        assert row.clip.mask.all()
        assert row.decoded
        assert row.words.ids.shape == row.words.mask.shape == (1, WORDS)


def test_one_row_per_video_with_a_caption_drawn_anew(paths: list[Path]) -> None:
    dataset = training(paths, expand=False)
    assert len(dataset) == len(SAMPLES)
    drawn = {video: set() for video in range(len(SAMPLES))}
    for epoch in range(20):
        for video in (0, 1, 2):
            row = dataset[epoch, video]
            assert row.video_index == video
            assert list(row.text_index) == [caption(row)]
            drawn[video].add(caption(row))
    assert (drawn[0], drawn[1], drawn[2]) == ({0, 1, 2}, {3}, {4, 5})


@pytest.mark.parametrize("expand", [True, False])
def test_rows_do_not_depend_on_what_was_read_before(paths: list[Path], expand: bool) -> None:
    keys = [(epoch, row) for epoch in (0, 1) for row in range(len(SAMPLES))]
    first, second = (training(paths, "segment_random", expand=expand) for _ in range(2))
    forwards = {key: first[key] for key in keys}
    torch.manual_seed(5)
    backwards = {key: second[key] for key in reversed(keys)}
    assert all(same(forwards[key], backwards[key]) for key in keys)


def test_random_frames_follow_seed_and_epoch(paths: list[Path]) -> None:
    frames = [
        training(paths, "segment_random", seed=seed)[epoch, 0].clip.frames
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({frame.numpy().tobytes() for frame in frames}) > 1
    fixed = [training(paths, seed=seed)[epoch, 0].clip.frames for seed, epoch in ((0, 0), (1, 1))]
    assert torch.equal(*fixed)


AUGMENTATION = RandAugment("rand-m7-n4-mstd0.5-inc1")


class Spy(RandAugment):
    """Changes nothing, and notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, ...], int]] = []

    def __call__(self, frames: np.ndarray, seed: int) -> np.ndarray:
        self.seen.append((frames.shape, seed))
        return frames


@pytest.mark.parametrize("expand", [True, False])
def test_augmentation_leaves_the_choice_of_frames_and_captions_alone(paths: list[Path], expand: bool) -> None:
    spy = Spy()
    plain = training(paths, "segment_random", expand=expand)
    augmented = training(paths, "segment_random", expand=expand, augmentation=spy)
    keys = [(epoch, row) for epoch in (0, 1) for row in range(len(SAMPLES))]
    assert all(same(plain[key], augmented[key]) for key in keys)
    seeds = [seed for _, seed in spy.seen]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_augmentation_comes_before_the_resize(paths: list[Path]) -> None:
    spy = Spy()
    small = replace(loader(), image_size=SIZE // 2)
    found = list(zip(SAMPLES, paths, strict=False))
    dataset = TrainingDataset(found, small, True, SPEC, WORDS, 0, False, spy)
    assert dataset[0, 0].clip.frames.shape == (FRAMES, 3, SIZE // 2, SIZE // 2)
    assert spy.seen[0][0] == (FRAMES, SIZE, SIZE, 3)


def test_augmentation_follows_seed_epoch_and_row(paths: list[Path]) -> None:
    keys = [(epoch, row) for epoch in (0, 1) for row in range(COUNT)]
    plain, first, second = training(paths), *(training(paths, augmentation=AUGMENTATION) for _ in range(2))
    forwards = {key: first[key] for key in keys}
    random.seed(5)
    np.random.seed(5)
    backwards = {key: second[key] for key in reversed(keys)}
    assert all(same(forwards[key], backwards[key]) for key in keys)
    # Rows 0 to 2 are of one clip.
    drawn = {forwards[key].clip.frames.numpy().tobytes() for key in keys if key[1] < 3}
    assert len(drawn) > 3
    assert plain[0, 0].clip.frames.numpy().tobytes() == plain[1, 2].clip.frames.numpy().tobytes()
    other = training(paths, augmentation=AUGMENTATION, seed=1)
    assert any(not torch.equal(other[key].clip.frames, forwards[key].clip.frames) for key in keys)


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 1)])
def test_augmented_batches_do_not_depend_on_processes(paths: list[Path], world: int, workers: int) -> None:
    def batches(rank: int, world: int, workers: int) -> list[Tensor]:
        dataset = training(paths, augmentation=AUGMENTATION)
        order = EpochBatches(COUNT, 4, 0, rank, world)
        order.set_epoch(1)
        return [
            batch.clips.frames
            for batch in DataLoader(dataset, batch_sampler=order, num_workers=workers, collate_fn=collate)
        ]

    halves = [batches(rank, world, workers) for rank in range(world)]
    for one, parts in zip(batches(0, 1, 0), zip(*halves, strict=True), strict=True):
        assert torch.equal(one, torch.cat(parts))


def test_unreadable_clip_stops_training(paths: list[Path]) -> None:
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        training([paths[4], *paths[1:4]])[0, 0]


def test_another_row_takes_the_place_of_an_unreadable_clip(paths: list[Path]) -> None:
    dataset = training([paths[4], *paths[1:4]], tolerate=True)
    with pytest.warns(UserWarning, match=r"broken\.mp4.*another training row"):
        substitutes = [dataset[epoch, 0] for epoch in range(6)]
    assert all(row.video_index != 0 and row.decoded for row in substitutes)
    assert all(list(row.text_index) == [caption(row)] for row in substitutes)
    assert len({caption(row) for row in substitutes}) > 1
    with pytest.warns(UserWarning, match="another training row"):
        assert same(dataset[3, 0], substitutes[3])


def test_only_unreadable_clips_end_in_an_error(paths: list[Path]) -> None:
    dataset = training([paths[4]] * 4, tolerate=True)
    with pytest.warns(UserWarning, match="broken"), pytest.raises(DataError, match="could not be read"):
        dataset[0, 0]


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_each_video_with_all_its_captions(paths: list[Path]) -> None:
    dataset = evaluation(paths)
    assert dataset.counts == (len(SAMPLES), COUNT)
    rows = [dataset[index] for index in range(len(dataset))]
    assert [row.video_index for row in rows] == [0, 1, 2, 3]
    assert [list(row.text_index) for row in rows] == [[0, 1, 2], [3], [4, 5], [6, 7]]
    assert [(row.words.ids[:, 0] - 1).tolist() for row in rows] == [[0, 1, 2], [3], [4, 5], [6, 7]]
    assert all(row.decoded for row in rows)
    assert all(
        torch.equal(row.clip.frames, training(paths)[0, i].clip.frames)
        for i, row in zip((0, 3, 4, 6), rows, strict=True)
    )


def test_random_sampling_is_the_same_every_time(paths: list[Path]) -> None:
    first, second = (evaluation(paths, sampling="segment_random") for _ in range(2))
    assert [same(first[index], second[index]) for index in (3, 0)] == [True, True]
    assert same(first[0], first[0])


def test_missing_clip_is_blank_and_said_to_be(paths: list[Path]) -> None:
    row = evaluation([None, *paths[1:4]], tolerate=True)[0]
    assert_blank(row)


@pytest.mark.filterwarnings("error")
def test_unreadable_clip_stops_evaluation_or_is_blank(paths: list[Path]) -> None:
    broken = [paths[4], *paths[1:4]]
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        evaluation(broken)[0]
    with pytest.warns(UserWarning, match=r"broken\.mp4.*counts as failed"):
        row = evaluation(broken, tolerate=True)[0]
    assert_blank(row)


def assert_blank(row: Row) -> None:
    """No frame is real, but the captions are all there."""
    assert not row.decoded
    assert row.clip.frames.shape == (FRAMES, 3, SIZE, SIZE)
    assert not row.clip.frames.any()
    assert not row.clip.mask.any()
    assert list(row.text_index) == [0, 1, 2]


def test_padding_after_the_last_real_frame(paths: list[Path]) -> None:
    dataset = EvaluationDataset(SAMPLES, list(paths[:4]), loader(rate=1), SPEC, WORDS, False)
    row = dataset[0]  # two seconds at one frame per second
    assert row.clip.mask.tolist() == [True, True, False]
    assert row.clip.frames[:2].any()
    assert not row.clip.frames[2].any()


# --- batches ---------------------------------------------------------------------------------------------------------


def test_collate_keeps_captions_with_their_videos(paths: list[Path]) -> None:
    dataset = evaluation([paths[0], None, *paths[2:4]], tolerate=True)
    batch = collate([dataset[index] for index in (2, 0, 1)])
    assert batch.clips.frames.shape == (3, FRAMES, 3, SIZE, SIZE)
    assert batch.clips.mask.shape == (3, FRAMES)
    assert batch.words.ids.shape == batch.words.mask.shape == (6, WORDS)
    assert batch.video_index.tolist() == [2, 0, 1]
    assert batch.text_index.tolist() == [4, 5, 0, 1, 2, 3]
    assert batch.text_video.tolist() == [2, 2, 0, 0, 0, 1]
    assert (batch.words.ids[:, 0] - 1).tolist() == batch.text_index.tolist()
    assert batch.decoded.tolist() == [True, True, False]
    assert torch.equal(batch.clips.frames[1], dataset[0].clip.frames)


def test_a_batch_is_its_rows_whatever_was_in_its_memory(paths: list[Path]) -> None:
    mixed = [paths[0], None, paths[4], paths[3]]
    dataset = EvaluationDataset(SAMPLES, mixed, loader(rate=1), SPEC, WORDS, tolerate=True)
    with pytest.warns(UserWarning, match="counts as failed"):
        rows = [dataset[index] for index in range(4)]
    for _ in range(3):
        room = dataset.loader.room(4)
        room.frames.fill_(1)
        place = room.frames.data_ptr()
        del room
        with pytest.warns(UserWarning, match="counts as failed"):
            found = dataset.__getitems__(range(4))
        assert found.clips.frames.data_ptr() == place
        assert all(map(same, found, rows))
        whole, apart = collate(found), collate(rows)
        assert whole.clips.frames is found.clips.frames
        assert all(map(torch.equal, whole.clips, apart.clips))
        assert torch.equal(whole.decoded, apart.decoded)
        del found, whole


def test_training_batches_are_their_rows(paths: list[Path]) -> None:
    dataset = training([paths[4], *paths[1:4]], "segment_random", tolerate=True)
    keys = [(2, row) for row in range(COUNT)]
    with pytest.warns(UserWarning, match="another training row"):
        assert all(map(same, dataset.__getitems__(keys), [dataset[key] for key in keys]))


def test_a_batch_that_is_held_is_never_written_over(paths: list[Path]) -> None:
    batches = list(DataLoader(evaluation(paths), batch_size=1, collate_fn=collate))
    again = list(DataLoader(evaluation(paths), batch_size=1, collate_fn=collate))
    assert len({batch.clips.frames.data_ptr() for batch in batches}) == len(SAMPLES)
    for index, (one, other) in enumerate(zip(batches, again, strict=True)):
        assert torch.equal(one.clips.frames, other.clips.frames)
        assert torch.equal(one.clips.frames[0], evaluation(paths)[index].clip.frames)


def test_datasets_travel_to_loader_workers(paths: list[Path]) -> None:
    dataset = training(paths)
    assert same(pickle.loads(pickle.dumps(dataset))[0, 2], dataset[0, 2])
