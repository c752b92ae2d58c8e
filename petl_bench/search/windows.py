"""The parts of a video that an index has features of, read in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from petl_bench.data.datasets import ClipLoader
from petl_bench.data.reader import VideoError, VideoReader
from petl_bench.data.sampling import choose_frames, is_random
from petl_bench.data.video import TimedFrames, open_video, padded, resize_frames, times_of
from petl_bench.errors import DataError
from petl_bench.inputs import WHOLE, Clips, Moment

#: windows of a file; times of a damaged one may lie years apart
_MOST = 100_000


class Window(NamedTuple):
    """Frames of a part of a video.

    Attributes:
        start: in seconds.
        end: in seconds; 0 of a file that does not tell how long it is.
        clip: as `ClipLoader.load` gives it.
    """

    start: float
    end: float
    clip: Clips


class _Chosen(NamedTuple):
    moment: Moment
    numbers: np.ndarray


def windows(path: Path, loader: ClipLoader, seconds: int | None) -> Iterator[Window]:
    """A video in windows, one after another; each file is decoded once, whatever the number of its windows.

    Args:
        path: of the video.
        loader: how frames are chosen and read.
        seconds: length of a window; the last one of a file may be shorter. None takes the file as one.

    Raises:
        VideoError: the file cannot be read, or not beyond the windows that came before.
    """
    with open_video(path, loader.reader) as video:
        length = _length(video)
        if seconds is not None and length / seconds > _MOST:
            raise VideoError(f"{path}: {length / 86400:.1f} days are more than {_MOST} windows of {seconds} s")
        chosen = list(_chosen(video, loader, seconds, length))
        if not chosen:
            raise VideoError(f"{path}: no frame can be chosen of it")
        for moment, frames in _read(video, loader, chosen):
            end = length if moment.end is None else min(moment.end, length)
            yield Window(moment.start or 0, round(end, 2), padded(frames, loader.rule.count))


def _length(video: VideoReader) -> float:
    """In seconds; 0 where a file does not tell."""
    times, fps = video.timing.times, video.info.fps
    if times is not None:
        return float(times[-1])
    return video.info.num_frames / fps if fps > 0 and math.isfinite(fps) else 0.0


def _chosen(video: VideoReader, loader: ClipLoader, seconds: int | None, length: float) -> Iterator[_Chosen]:
    for place, moment in enumerate(_moments(seconds, length)):
        rng = np.random.default_rng(place) if is_random(loader.rule.sampling) else None
        try:
            numbers = choose_frames(video.info.num_frames, video.info.fps, video.timing.times, loader.rule, moment, rng)
        except DataError as error:
            raise video.refusal(error) from error
        if len(numbers):
            yield _Chosen(moment, numbers)


def _moments(seconds: int | None, length: float) -> Sequence[Moment]:
    if seconds is None or length <= seconds:
        return (WHOLE,)
    return [Moment(start, start + seconds) for start in range(0, math.ceil(length), seconds)]


def _read(video: VideoReader, loader: ClipLoader, chosen: Sequence[_Chosen]) -> Iterator[tuple[Moment, TimedFrames]]:
    """The frames of each window, as soon as its last one is decoded; small ones are held, never whole ones."""
    held: dict[int, torch.Tensor] = {}
    waiting = list(reversed(chosen))
    for number, pixels in video.each(np.concatenate([numbers for _, numbers in chosen])):
        frame = torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)
        held[number] = resize_frames(frame, loader.image_size, loader.resize)[0]
        while waiting and waiting[-1].numbers.max() <= number:
            moment, numbers = waiting.pop()
            times = times_of(numbers, video.info.fps, video.timing.times, moment)
            yield moment, TimedFrames(torch.stack([held[int(wanted)] for wanted in numbers]), times)
            first = waiting[-1].numbers.min() if waiting else number + 1
            held = {known: frame for known, frame in held.items() if known >= first}
