"""Frame selection: what holds for every rule and clip length, and what each rule promises."""

import math
from typing import Any

import numpy as np
import pytest

from petl_bench.data import sampling
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import FrameRule, Moment, Sampling

COUNTS = (1, 2, 3, 4, 8, 12, 32)
LENGTHS = (1, 2, 3, 4, 5, 7, 11, 12, 13, 31, 64, 301)
# BLIP's quirks: repeats frame 0 in a short clip, or drops a frame of an odd count.
EXACT = tuple(name for name in sampling.SAMPLERS if name not in ("blip_uniform", "blip_headtail"))


def choose(num_frames: int, count: int, name: Sampling, **options: Any) -> np.ndarray:
    rng = np.random.default_rng(0) if sampling.is_random(name) else None
    rule = FrameRule(count, name, options.pop("rate", None))
    return sampling.choose_frames(num_frames, options.pop("fps", 25.0), None, rule, Moment(**options), rng)


@pytest.mark.parametrize("name", sampling.SAMPLERS)
@pytest.mark.parametrize("count", COUNTS)
def test_indices_are_sorted_and_inside_the_clip(name: Sampling, count: int) -> None:
    if (name, count) == ("blip_headtail", 1):
        with pytest.raises(UsageError, match="at least 2 frames"):
            choose(10, count, name)
        return
    for length in LENGTHS:
        indices = choose(length, count, name)
        assert 1 <= len(indices) <= count
        assert (np.diff(indices) >= 0).all()
        assert indices[0] >= 0
        assert indices[-1] < length


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("count", COUNTS)
def test_as_many_distinct_frames_as_possible(name: Sampling, count: int) -> None:
    for length in LENGTHS:
        assert len(set(choose(length, count, name).tolist())) == min(length, count)


def test_seconds_grid_counts_by_the_truncated_frame_rate() -> None:
    assert sampling.seconds_grid(90, 29.97).tolist() == [0, 29, 58, 87]
    assert sampling.seconds_grid(90, 30.0, rate=2).tolist() == [0, 15, 30, 45, 60, 75]
    assert sampling.seconds_grid(6, 3.0, rate=0).tolist() == [0, 1, 2, 3, 4, 5]


def test_seconds_grid_includes_the_end_second_and_stops_with_the_video() -> None:
    assert sampling.seconds_grid(300, 30.0, moment=Moment(1, 4)).tolist() == [30, 60, 90, 120]
    assert sampling.seconds_grid(100, 30.0, moment=Moment(2, 30)).tolist() == [60, 90]
    assert sampling.seconds_grid(10, 25.0, moment=Moment(1, 4)).tolist() == []


@pytest.mark.parametrize("fps", [0.0, 0.5, math.nan, math.inf])
def test_unusable_frame_rate(fps: float) -> None:
    with pytest.raises(DataError, match="frame rate"):
        sampling.seconds_grid(100, fps)


def test_frame_rate_below_the_sampling_rate() -> None:
    with pytest.raises(DataError, match="frame rate of 2"):
        sampling.seconds_grid(100, 2.0, rate=3)


@pytest.mark.parametrize(("start", "end"), [(-1, 4), (4, 4), (5, 4), (None, 0)])
def test_impossible_moment(start: int | None, end: int) -> None:
    with pytest.raises(ValueError, match="start < end"):
        Moment(start, end)


def test_segment_middle_is_the_middle() -> None:
    assert sampling.segment_middle(12, 4).tolist() == [1, 4, 7, 10]
    assert sampling.segment_middle(3, 8).tolist() == [0, 1, 2]


def test_segment_random_reaches_every_frame_of_its_segment_and_no_other() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([sampling.segment_random(12, 4, rng) for _ in range(200)])
    assert [sorted(set(column)) for column in draws.T.tolist()] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9, 10, 11],
    ]


@pytest.mark.parametrize("name", sampling.RANDOM_SAMPLERS)
def test_random_rules_follow_their_generator(name: Sampling) -> None:
    def draw(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return sampling.choose_frames(300, 25.0, None, FrameRule(8, name, None), rng=rng).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_only_random_rules_need_a_generator(name: Sampling) -> None:
    assert sampling.is_random(name) == (name in ("segment_random", "blip_random", "blip_headtail"))
    if sampling.is_random(name):
        with pytest.raises(ValueError, match="needs rng"):
            sampling.choose_frames(30, 25.0, None, FrameRule(4, name, None))
    else:
        assert len(sampling.choose_frames(30, 25.0, None, FrameRule(4, name, None))) == 4


def test_fixed_rules_ignore_a_generator() -> None:
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    assert sampling.choose_frames(9, 25.0, None, FrameRule(2, "uniform", None), rng=rng).tolist() == [0, 8]
    assert rng.bit_generator.state == state


def test_selection_is_made_on_the_grid() -> None:
    assert choose(750, 4, "uniform", rate=1).tolist() == [0, 225, 475, 725]
    assert choose(750, 3, "head", rate=1).tolist() == [0, 25, 50]
    assert choose(750, 3, "tail", rate=None).tolist() == [747, 748, 749]


def test_a_moment_without_a_grid() -> None:
    assert choose(100, 50, "head", fps=10.0, start=2, end=4).tolist() == list(range(20, 40))
    assert choose(100, 50, "head", fps=10.0, start=9, end=60).tolist() == list(range(90, 100))
    assert choose(100, 50, "head", fps=10.0, start=20).tolist() == []
    with pytest.raises(DataError, match="frame_rate null"):
        choose(100, 50, "head", fps=0.0, start=2)


@pytest.mark.parametrize("rate", [None, 1, 25])
@pytest.mark.parametrize("name", ["uniform", "tail", "segment_middle"])
def test_a_still_image_is_there_at_any_time(name: Sampling, rate: int | None) -> None:
    assert choose(1, 12, name, fps=0.0, rate=rate).tolist() == [0]
    assert choose(1, 12, name, fps=0.0, rate=rate, start=3, end=9).tolist() == [0]


@pytest.mark.parametrize(
    ("num_frames", "fps", "options", "expected"),
    [
        (500, 25.0, {}, [0, 150, 300, 475]),  # 20 of the grid thinned out
        (100, 25.0, {}, [0, 25, 50, 75]),  # as many as wanted
        (90, 25.0, {}, [0, 25, 50, 75]),
        (75, 25.0, {}, [0, 24, 49, 74]),  # 3 on the grid: spread over all frames
        (3, 25.0, {}, [0, 0, 1, 2]),  # fewer frames than wanted: repeated
        (1, 25.0, {}, [0, 0, 0, 0]),
        (91, 29.97, {}, [0, 30, 60, 90]),  # a stride of 30: the frame rate is rounded, not cut
        (200, 25.0, {"rate": 2}, [0, 60, 120, 192]),
        (500, 25.0, {"start": 2, "end": 5}, [50, 75, 100, 125]),
        (500, 25.0, {"start": 2, "end": 4}, [50, 66, 83, 100]),
        (60, 25.0, {"start": 2, "end": 9}, [50, 53, 56, 59]),
        (40, 25.0, {"start": 2, "end": 9}, []),
        (3, 0.0, {"rate": None}, [0, 0, 1, 2]),  # a picture has no frame rate
    ],
)
def test_filled_gives_every_clip_all_its_frames(
    num_frames: int, fps: float, options: dict[str, Any], expected: list[int]
) -> None:
    options = {"rate": 1, "fps": fps} | options
    assert choose(num_frames, 4, "filled", **options).tolist() == expected


def test_filled_takes_every_frame_of_a_time_lapse() -> None:
    assert choose(10, 4, "filled", rate=1, fps=0.4).tolist() == [0, 3, 6, 9]


def test_filled_finds_no_seconds_without_times() -> None:
    with pytest.raises(DataError, match="no second of it can be found"):
        choose(10, 4, "filled", rate=1, fps=0.0)


def test_filled_goes_by_the_times_of_frames() -> None:
    times = np.array([0, 1, 2, 3, 4, 5, 5.2, 5.4, 5.6, 5.8, 6.0])  # 10 frames in 6 s: 5 in the last one
    numbers = sampling.choose_frames(10, 1.0, times, FrameRule(5, "filled", 1))
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert sampling.choose_frames(10, 1.0, times, FrameRule(4, "filled", None)).tolist() == [0, 3, 6, 9]


def grid(times: list[float], rate: int | None = None, **moment: Any) -> list[int]:
    rule = FrameRule(99, "head", rate)
    return sampling.choose_frames(len(times) - 1, 9.0, np.array(times), rule, Moment(**moment)).tolist()


def test_a_grid_by_the_times_of_frames() -> None:
    times = [0, 0.5, 3.2, 3.4, 3.6, 6]
    assert grid(times) == [0, 1, 2, 3, 4]
    assert grid(times, rate=1) == [0, 1, 1, 1, 4, 4]  # what is shown at each second
    assert grid(times, rate=2) == [0, 1, 1, 1, 1, 1, 1, 3, 4, 4, 4, 4]
    assert grid(times, rate=1, start=2, end=4) == [1, 1, 4]  # the last second included
    assert grid(times, rate=0, start=3, end=4) == [2, 3, 4]  # every frame of these seconds
    assert grid(times, rate=0) == [0, 1, 2, 3, 4]
    assert grid(times, start=1, end=3) == [1]  # none begins there; one is shown
    assert grid(times, start=0, end=1) == [0, 1]  # the end excluded
    assert grid(times, start=3) == [2, 3, 4]
    assert grid(times, start=5, end=9) == [4]
    assert grid(times, start=6) == grid(times, rate=1, start=6) == []


@pytest.mark.parametrize(
    ("fps", "rate", "numbers"), [(0.5, 1, [0, 0, 1, 1, 2, 2]), (3, 4, [0, 0, 1, 2]), (0.4, 0, [0, 1, 2])]
)
def test_fewer_frames_than_moments_come_as_often_as_they_are_shown(fps: float, rate: int, numbers: list[int]) -> None:
    assert sampling.frame_grid(3, fps, None, rate).tolist()[: len(numbers)] == numbers


def test_a_time_lapse_within_a_moment() -> None:
    assert sampling.frame_grid(10, 1 / 90, None, None, Moment(100, 130)).tolist() == [1]
    assert sampling.frame_grid(10, 1 / 90, None, None, Moment(100, 200)).tolist() == [2]
    assert sampling.frame_grid(10, 1 / 90, None, None, Moment(899, None)).tolist() == [9]
    assert sampling.frame_grid(10, 1 / 90, None, None, Moment(900, None)).tolist() == []
    assert len(sampling.frame_grid(10, 1 / 90, None, 1)) == 900


def test_a_picture_is_shown_at_any_time() -> None:
    assert sampling.frame_grid(1, 0.0, None, 1).tolist() == [0]
    assert sampling.frame_grid(1, 0.0, None, None, Moment(5, 7)).tolist() == [0]


def test_times_that_cannot_be_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(
        DataError, match=r"30 frames per second of 11574.1 days are too many: lower --data.init_args.frame_rate"
    ):
        grid([0, 1, 2, 1e9], rate=30)
    assert grid([0, 1, 2, 1e9], start=1, end=9) == [1, 2]


@pytest.mark.parametrize("times", [None, np.arange(11.0)])
def test_a_negative_rate(times: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        sampling.frame_grid(10, 1.0, times, -1)


def test_unknown_rule() -> None:
    with pytest.raises(UsageError, match="'unifrom' is unknown; choose one of head"):
        choose(10, 4, "unifrom")  # type: ignore[arg-type]  # on purpose


def test_no_frames_wanted() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        choose(10, 0, "uniform")
