"""Which frames of a clip are read: the published selection rules as pure functions on frame numbers.

Every rule answers "which of `available` positions, when at most `num_frames` are wanted". A clip shorter than
that gives fewer positions; padding and masking are the caller's work (`petl_bench.data.video.padded`).
Sources: the official code of CLIP4Clip, MV-Adapter, Frozen in Time, BLIP and TempMe, as each rule says.
"""

import math
import random
from collections.abc import Callable
from typing import get_args

import numpy as np

from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import WHOLE, FrameRule, Moment, Sampling

#: seconds by which a container's clock may round a time: less than any frame lasts
_ROUNDING = 1e-4
_LARGEST_GRID = 2**24


def seconds_grid(num_frames: int, fps: float, rate: int = 1, moment: Moment = WHOLE) -> np.ndarray:
    """Frames CLIP4Clip extracts from a video: `rate` per second (`RawVideoExtractorCV2.video_to_tensor`).

    The frame rate is truncated to an integer first, so 29.97 fps steps by 29 frames and drifts, and the last
    second is included, so seconds 1 to 4 give four of them. Both are kept, because published numbers contain
    them. A moment with fractions of seconds, which CLIP4Clip does not know, has no frame after its end.

    Args:
        num_frames: frames in the video.
        fps: frames per second.
        rate: frames taken from each second, every `int(fps) // rate`-th; 0 takes all.
        moment: its last second is included; the end of the video where it is beyond that.

    Returns:
        Ascending frame numbers, (n,) int64; empty when the video ends before the moment.

    Raises:
        DataError: the frame rate is below one, or below `rate`.
        ValueError: `rate` is negative.
    """
    if rate < 0:
        raise ValueError(f"rate is {rate}; it must not be negative")
    if not (math.isfinite(fps) and int(fps) >= max(rate, 1)):
        raise DataError(f"a frame rate of {fps:g} cannot give {rate or 'all'} frames of each second by counting frames")
    frames_per_second = int(fps)
    duration = math.ceil(num_frames / frames_per_second)
    last = duration if moment.end is None else min(moment.end, duration)
    seconds = _each_second(moment.start or 0, last)
    taken = rate or frames_per_second
    offsets = np.arange(taken) * (frames_per_second // taken)
    grid = (_frames_at(seconds, frames_per_second)[:, None] + offsets).ravel()
    if not moment.is_of_whole_seconds:
        grid = grid[grid <= _frames_at(last, frames_per_second)]
    return grid[grid < num_frames]


def _each_second(start: float, last: float) -> np.ndarray:
    """`start` and every second after it up to `last`, which is included."""
    return start + np.arange(math.floor(last - start + _ROUNDING) + 1)


def _frames_at(seconds: np.ndarray | float, frames_per_second: int) -> np.ndarray:
    """The frames that are shown at some seconds, as whole numbers."""
    return np.floor(np.multiply(seconds, frames_per_second) + _ROUNDING).astype(np.int64)


def head(available: int, num_frames: int) -> np.ndarray:
    """The first frames (CLIP4Clip and MV-Adapter `slice_framepos` 0)."""
    return np.arange(min(available, num_frames))


def tail(available: int, num_frames: int) -> np.ndarray:
    """The last frames (CLIP4Clip and MV-Adapter `slice_framepos` 1)."""
    return np.arange(max(available - num_frames, 0), available)


def uniform(available: int, num_frames: int) -> np.ndarray:
    """Evenly spread, first and last frame included (CLIP4Clip `slice_framepos` 2)."""
    return np.linspace(0, available - 1, num=min(available, num_frames), dtype=np.int64)


def left_edge(available: int, num_frames: int) -> np.ndarray:
    """The first frame of each of `num_frames` equal parts (MV-Adapter `slice_framepos` 2)."""
    count = min(available, num_frames)
    return np.arange(count) * available // max(count, 1)


def segment_middle(available: int, num_frames: int) -> np.ndarray:
    """The middle frame of each segment (Frozen in Time, test time)."""
    edges = _segment_edges(available, num_frames)
    return (edges[:-1] + edges[1:] - 1) // 2


def segment_random(available: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame of each segment (Frozen in Time, training).

    The released code never draws a segment's last frame and fails on a segment of one frame; here every frame
    of the segment is equally likely.
    """
    edges = _segment_edges(available, num_frames)
    return rng.integers(edges[:-1], edges[1:])


def blip_uniform(available: int, num_frames: int, start: int = 0, end: int | None = None) -> np.ndarray:
    """BLIP's released `uniform`, quirk included: the step is truncated, so frames bunch at the start.

    10 frames for 4 give 0, 2, 4, 6, and fewer frames than wanted give frame 0 repeatedly. Between `start` and
    `end` (frame numbers) the step is still that of the whole video, so fewer than `num_frames` result. Use
    `uniform` or `left_edge` unless BLIP's published numbers are to be reproduced.
    """
    step = available / num_frames
    stop = available if end is None else min(end, available)
    return start + int(step) * np.arange(math.ceil((stop - start) / step))


def blip_random(available: int, num_frames: int, rng: random.Random) -> np.ndarray:
    """Sorted random frames without repetition (BLIP `rand`); all when too few, where BLIP drops the clip."""
    if available < num_frames:
        return np.arange(available)
    return np.array(sorted(rng.sample(range(available), num_frames)), dtype=np.int64)


def blip_headtail(available: int, num_frames: int, rng: random.Random) -> np.ndarray:
    """Half of the frames from each half of the clip (BLIP `headtail`); all when a half has too few.

    An odd `num_frames` gives one frame less, as released.

    Raises:
        UsageError: `num_frames` is 1, which would give none.
    """
    if num_frames < 2:
        raise UsageError("data.sampling blip_headtail needs at least 2 frames; choose another rule")
    middle, half = available // 2, num_frames // 2
    if middle < half:
        return np.arange(available)
    first = sorted(rng.sample(range(middle), half))
    second = sorted(rng.sample(range(middle, available), half))
    return np.array(first + second, dtype=np.int64)


FIXED_SAMPLERS: dict[Sampling, Callable[[int, int], np.ndarray]] = {
    "head": head,
    "tail": tail,
    "uniform": uniform,
    "left_edge": left_edge,
    "segment_middle": segment_middle,
    "blip_uniform": blip_uniform,
}
RANDOM_SAMPLERS: dict[Sampling, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "segment_random": segment_random,
    "blip_random": lambda available, num_frames, rng: blip_random(available, num_frames, _python_rng(rng)),
    "blip_headtail": lambda available, num_frames, rng: blip_headtail(available, num_frames, _python_rng(rng)),
}
#: the rule that chooses from every frame where the grid has too few (`filled`)
FILLED: Sampling = "filled"
SAMPLERS: tuple[Sampling, ...] = get_args(Sampling)


def is_random(name: Sampling) -> bool:
    """Whether the rule draws random numbers."""
    return name in RANDOM_SAMPLERS


def choose_frames(
    num_frames: int,
    fps: float,
    times: np.ndarray | None,
    rule: FrameRule,
    moment: Moment = WHOLE,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Frame numbers to read from one video: first a grid in time, then at most `rule.count` positions of it.

    Args:
        num_frames: frames in the video.
        fps: frames per second, 0 if that is not known; used only with a rate or a moment.
        times: (num_frames + 1,) seconds at which each frame begins and the last one ends; None for a constant rate.
        rule: how many, from which grid (`frame_grid`; `filled` has its own) and how.
        moment: its end is included with a rate (CLIP4Clip), excluded without.
        rng: source of randomness for the random rules.

    Returns:
        Frame numbers, (n,) int64 with n <= count; empty when the video ends before the moment.

    Raises:
        DataError: a second is asked for, and the frames have no times.
        UsageError: no such rule.
        ValueError: a random rule without `rng`, or arguments outside their range.
    """
    count, sampling = rule.count, rule.sampling
    if count < 1:
        raise ValueError(f"count is {count}; at least one frame must be wanted")
    if sampling == FILLED:
        return filled(num_frames, fps, times, count, rule.rate, moment)
    grid = frame_grid(num_frames, fps, times, rule.rate, moment)
    if sampling in FIXED_SAMPLERS:
        return grid[FIXED_SAMPLERS[sampling](len(grid), count)][:count] if len(grid) else grid
    if sampling not in RANDOM_SAMPLERS:
        raise UsageError(f"data.sampling {sampling!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    if rng is None:
        raise ValueError(f"sampling {sampling!r} is random and needs rng")
    return grid[RANDOM_SAMPLERS[sampling](len(grid), count, rng)] if len(grid) else grid


def filled(
    num_frames: int, fps: float, times: np.ndarray | None, count: int, rate: int | None, moment: Moment = WHOLE
) -> np.ndarray:
    """Exactly `count` frames of every clip, as TempMe and DiscoVLA take them.

    Every `round(fps / rate)`-th frame, evenly thinned out if these are more than `count`; where they are fewer, frames
    spread evenly over the whole clip instead, some of them repeatedly if it is shorter than `count` frames. A moment
    ends with the frame at `end`. Source: LunarShen/DsicoVLA 6ace76f, tvr/dataloaders/dataloader_retrieval.py, which
    counts frames; where they have times of their own, those shown at the same seconds are taken.

    Args:
        num_frames: frames in the video.
        fps: frames per second; used only with a rate or a moment.
        times: of the frames and of the end, in seconds, (num_frames + 1,); None if they follow from `fps`.
        count: frames wanted.
        rate: frames per second considered; None considers every frame.
        moment: its last second is included.

    Returns:
        Ascending frame numbers, (count,) int64; empty when the video ends before the moment.

    Raises:
        DataError: the frame rate cannot be used.
    """
    if num_frames == 1:  # a picture is shown at any time
        return np.zeros(count, np.int64)
    if rate is None and moment.is_whole:
        return _spread(0, num_frames - 1, 1, count)
    if times is not None:
        fps = num_frames / float(times[-1])
    if not (math.isfinite(fps) and fps > 0):
        raise _untimed()
    first = int((moment.start or 0) * fps)
    last = num_frames - 1 if moment.end is None else min(int(moment.end * fps), num_frames - 1)
    # A clip of fewer frames than moments is one that is shorter than wanted.
    numbers = _spread(first, last, 1 if rate is None else max(round(fps / rate), 1), count)
    return numbers if times is None else _shown(times[:-1], numbers / fps)


def _spread(first: int, last: int, stride: int, count: int) -> np.ndarray:
    """`count` frames of a span: on a grid, or all over where the grid has fewer."""
    grid = np.arange(first, last + 1, stride)
    if len(grid) < count and last >= first:
        return np.linspace(first, last, num=count, dtype=np.int64)
    return grid[uniform(len(grid), count)] if len(grid) else grid


def _untimed() -> DataError:
    return DataError(
        "no second of it can be found; --data.init_args.frame_rate null chooses among all frames of a whole clip"
    )


def frame_grid(
    num_frames: int, fps: float, times: np.ndarray | None, rate: int | None, moment: Moment = WHOLE
) -> np.ndarray:
    """The frames that `choose_frames` chooses from, ascending; the arguments are its own.

    At a constant rate of at least one frame for every moment of the grid, frames are counted as CLIP4Clip does
    (`seconds_grid`). Elsewhere a moment has the frame that is shown then, so that one which is shown at several of them
    comes as often. A still image is shown at any time.

    Raises:
        DataError: a second is asked for, and the frames have no times, or a grid of more than 16 million moments.
        ValueError: `rate` is negative.
    """
    if rate is not None and rate < 0:
        raise ValueError(f"rate is {rate}; it must not be negative")
    if rate is None and moment.is_whole:
        return np.arange(num_frames)
    if times is None and not (math.isfinite(fps) and fps > 0):
        if num_frames == 1:
            return np.arange(1)
        raise _untimed()
    if times is None and rate is not None and int(fps) >= max(rate, 1):
        return seconds_grid(num_frames, fps, rate, moment)
    start, end = moment.start or 0, moment.end
    if times is None and rate is None:
        stop = num_frames if end is None else min(_first_from(end, fps), num_frames)
        inside = np.arange(_first_from(start, fps), stop)
        if len(inside):
            return inside
    return _timed_grid(np.arange(num_frames + 1) / fps if times is None else times, rate, start, end)


def _first_from(second: float, fps: float) -> int:
    """The first frame that begins at a second or after it."""
    slack = _ROUNDING if isinstance(second, float) else 0.0  # 0.1 * 30 is more than 3
    return math.ceil(second * fps - slack)


def _timed_grid(times: np.ndarray, rate: int | None, start: float, end: float | None) -> np.ndarray:
    """The grid by the times of frames, (n + 1,); the arguments are those of `frame_grid`."""
    begins, length = times[:-1], float(times[-1])
    if start >= length:
        return np.arange(0)
    if not rate:
        stop = math.inf if end is None else end + (rate is not None and not isinstance(end, float))
        inside = np.flatnonzero((begins >= start - _ROUNDING) & (begins < stop - _ROUNDING))
        return inside if len(inside) else _shown(begins, np.array([start]))
    last = math.ceil(length) if end is None else min(end, math.ceil(length))
    if (last + 1 - start) * rate > _LARGEST_GRID:
        raise DataError(
            f"{rate} frames per second of {length / 86400:.1f} days are too many: lower --data.init_args.frame_rate, "
            "or set it to null, which chooses among the frames that there are"
        )
    moments = (_each_second(start, last)[:, None] + np.arange(rate) / rate).ravel()
    if isinstance(start, float) or isinstance(end, float):
        moments = moments[moments <= last + _ROUNDING]
    return _shown(begins, moments[(moments < length - _ROUNDING) | (moments == start)])


def _shown(begins: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The frame that is shown at each moment: the last one that has begun."""
    return np.searchsorted(begins, moments + _ROUNDING, side="right") - 1


def _segment_edges(available: int, num_frames: int) -> np.ndarray:
    count = min(available, num_frames)
    return np.linspace(0, available, num=count + 1).astype(np.int64)


def _python_rng(rng: np.random.Generator) -> random.Random:
    # BLIP draws with the standard library; seeding it from ours lets one generator govern a sample.
    return random.Random(int(rng.integers(2**63)))
