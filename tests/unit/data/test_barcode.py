"""Every frame carries its number as a bar code: the default reader gives the frame that was asked for.

The clips are those that other readers get wrong (specs/performance.md section 1.2).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from petl_bench.data.sampling import SAMPLERS, choose_frames, is_random
from petl_bench.data.video import open_video
from tests.unit.data.test_video import cut

FRAMES, BITS, BAR, HEIGHT, FPS = 90, 7, 16, 48, 15
WIDTH = BITS * BAR


def barcode(number: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3): one bar per bit, the lowest on the left."""
    bits = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.broadcast_to(np.repeat(bits, BAR)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(frame: np.ndarray) -> int:
    bars = frame.reshape(HEIGHT, BITS, BAR, 3)[8:-8, :, 4:-4].mean(axis=(0, 2, 3)) > 127
    return sum(1 << bit for bit in range(BITS) if bars[bit])


def write(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    vfr: bool = False,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.thread_count = 1
        if codec not in ("gif", "libsvtav1"):
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = 24, 2
        stream.options = {**(options or {})}
        if vfr:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24").reformat(format=pixels)
            frame.pts = number
            if vfr:  # from 3 to 30 frames per second
                frame.pts, frame.time_base = number * 66 + (number * number * 7) % 60, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


CLIPS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "variable.mp4": {"vfr": True},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "ten_bits.mp4": {"pixels": "yuv420p10le"},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=3:pools=1"}},
    "h264.avi": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "stream.ts": {},
    "matroska.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "lag-in-frames": "16"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "moving.gif": {"codec": "gif", "pixels": "rgb8"},
}


@pytest.fixture(scope="module", params=CLIPS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clips") / request.param, **CLIPS[request.param])


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_every_sampling_gets_its_frames(clip: Path, sampling: str) -> None:
    rng = np.random.default_rng(0) if is_random(sampling) else None
    with open_video(clip) as video:
        assert video.info.num_frames == FRAMES
        wanted = choose_frames(FRAMES, video.info.fps, count=12, sampling=sampling, rate=None, rng=rng)
        assert [number_of(frame) for frame in video.read(wanted)] == wanted.tolist()


def test_any_order_and_repeats(clip: Path) -> None:
    wanted = [*np.random.default_rng(1).integers(FRAMES, size=12), FRAMES - 1, 0, 0]
    with open_video(clip) as video:
        assert [number_of(frame) for frame in video.read(wanted)] == wanted


def test_single_frames(clip: Path) -> None:
    with open_video(clip) as video:
        for number in range(0, FRAMES, 11):
            assert number_of(video.read([number])[0]) == number


@pytest.mark.parametrize("second", [0.9, 2.3])
@pytest.mark.parametrize("name", ["plain.mp4", "open_gop.mp4", "hevc.mp4"])
def test_a_copied_part_begins_where_its_edit_list_says(tmp_path: Path, name: str, second: float) -> None:
    path = cut(write(tmp_path / name, **CLIPS[name]), tmp_path / f"cut_{name}", second)
    with av.open(str(path)) as container:  # what a player shows
        shown = [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown[0] >= second * FPS - 1
    assert shown == list(range(shown[0], FRAMES))
    with open_video(path) as video:
        assert video.info.num_frames == len(shown)
        wanted = np.linspace(0, len(shown) - 1, 12).astype(int)
        assert [number_of(frame) for frame in video.read(wanted)] == [shown[index] for index in wanted]


def write_slowing(path: Path) -> list[float]:
    """A clip whose frames come every 20 ms at first and every 180 ms at last; returns when each is shown."""
    times = np.cumsum([0, *np.linspace(20, 180, FRAMES - 1)]).astype(int)
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream("libx264", rate=FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times.tolist()):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return [time / 1000 for time in times.tolist()]


@pytest.mark.parametrize("name", ["slowing.mp4", "slowing.mkv"])
def test_seconds_are_those_of_the_clip_where_its_rate_varies(tmp_path: Path, name: str) -> None:
    times = write_slowing(tmp_path / name)
    with open_video(tmp_path / name) as video:
        chosen = choose_frames(FRAMES, video.info.fps, count=50, sampling="head", rate=1)
        numbers = [number_of(frame) for frame in video.read(video.shown_at(chosen))]
        by_number = [number_of(frame) for frame in video.read(chosen)]
    seconds = chosen / video.info.fps
    late = [second - times[number] for second, number in zip(seconds, numbers, strict=True)]
    assert all(-0.002 < off <= 0.18 for off in late)  # the frame shown at that second
    assert max(abs(second - times[number]) for second, number in zip(seconds, by_number, strict=True)) > 1


def test_a_constant_rate_is_left_as_it_is(tmp_path: Path) -> None:
    for name in ("plain.mp4", "matroska.mkv", "vp9.webm"):
        with open_video(write(tmp_path / name, **CLIPS[name])) as video:
            numbers = np.arange(FRAMES)
            assert video.shown_at(numbers) is numbers


def test_a_moment_of_a_clip(clip: Path) -> None:
    if clip.suffix == ".gif" or "variable" in clip.name:
        return  # their frame rates are not what was asked for
    with open_video(clip) as video:
        wanted = choose_frames(FRAMES, video.info.fps, count=8, sampling="uniform", rate=None, start=2, end=4)
        numbers = [number_of(frame) for frame in video.read(wanted)]
    assert numbers == wanted.tolist()
    assert min(numbers) >= 2 * FPS
    assert max(numbers) < 4 * FPS
