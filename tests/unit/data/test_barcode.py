"""Every frame carries its number as a bar code: the default reader gives the frame that was asked for.

The clips are those that other readers get wrong. torchcodec gives the same frames, or says that it may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream

import petl_bench.data.video as video_module
from petl_bench.data.reader import VideoError, VideoReader
from petl_bench.data.sampling import SAMPLERS, choose_frames, is_random
from petl_bench.data.video import open_video
from petl_bench.errors import DataError
from petl_bench.inputs import WHOLE, FrameRule, Moment, Sampling
from tests.unit.data.test_video import cut

FRAMES, BITS, BAR, HEIGHT, FPS = 90, 7, 16, 48, 15
WIDTH = BITS * BAR


@pytest.fixture(autouse=True)
def _nothing_is_too_near_to_be_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "_WORTH_A_SEEK", 0)


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


@pytest.fixture(params=["pyav", pytest.param("torchcodec", marks=pytest.mark.needs_torchcodec)])
def reader(request: pytest.FixtureRequest) -> str:
    return request.param


#: what torchcodec is not asked for: AVI, streams that are cut anywhere, pictures that other ones hide
REFUSED = (".avi", ".ts", ".flv", ".wmv", ".gif", "vp8.webm", ".h264", ".hevc")


def opened(path: Path, reader: str) -> VideoReader:
    """The video; read by PyAV where torchcodec refuses it, as it should."""
    if reader == "torchcodec" and path.name.endswith(REFUSED):
        with pytest.raises(VideoError, match="torchcodec may give wrong frames of it; PyAV"):
            open_video(path, reader)
        reader = "pyav"
    return open_video(path, reader)


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_every_sampling_gets_its_frames(clip: Path, sampling: Sampling, reader: str) -> None:
    rng = np.random.default_rng(0) if is_random(sampling) else None
    with opened(clip, reader) as video:
        assert video.info.num_frames == FRAMES
        wanted = choose_frames(FRAMES, video.info.fps, None, FrameRule(12, sampling, None), rng=rng)
        assert [number_of(frame) for frame in video.read(wanted)] == wanted.tolist()


def test_any_order_and_repeats(clip: Path, reader: str) -> None:
    wanted = [*np.random.default_rng(1).integers(FRAMES, size=12), FRAMES - 1, 0, 0]
    with opened(clip, reader) as video:
        assert [number_of(frame) for frame in video.read(wanted)] == wanted


def test_single_frames(clip: Path, reader: str) -> None:
    with opened(clip, reader) as video:
        for number in range(0, FRAMES, 11):
            assert number_of(video.read([number])[0]) == number


@pytest.mark.parametrize("second", [0.9, 2.3])
@pytest.mark.parametrize("name", ["plain.mp4", "open_gop.mp4", "hevc.mp4"])
def test_a_copied_part_begins_where_its_edit_list_says(tmp_path: Path, name: str, second: float, reader: str) -> None:
    path = cut(write(tmp_path / name, **CLIPS[name]), tmp_path / f"cut_{name}", second)
    with av.open(str(path)) as container:  # what a player shows
        shown = [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown[0] >= second * FPS - 1
    assert shown == list(range(shown[0], FRAMES))
    with opened(path, reader) as video:
        assert video.info.num_frames == len(shown)
        wanted = np.linspace(0, len(shown) - 1, 12).astype(int)
        assert [number_of(frame) for frame in video.read(wanted)] == [shown[index] for index in wanted]


#: milliseconds at which the frames of a clip are shown, all in multiples of 10
TIMES = {
    "slides": [*range(0, 9000, 900), *range(9000, 11400, 30)],  # a slide show that ends as a video
    "slowing": [10 * round(time) for time in np.cumsum([0, *np.linspace(2, 18, FRAMES - 1)])],
    "dropped": [100 * slot for slot in (0, 1, 2, 9, 10, 11, 19)],  # an encoder that drops frames of a 10 fps clip
    "lapse": list(range(0, 40_000, 2000)),
}


class Timed(NamedTuple):
    """What a clip with times of its own is written with."""

    codec: str = "libx264"
    pixels: str = "yuv420p"
    rate: int = 25  # what the header says, where that is a word of its own
    clock: Fraction = Fraction(1, 1000)
    options: Mapping[str, str] = {}


TIMED = {
    "h264.mp4": Timed(),
    "h264.mov": Timed(),
    "h264.mkv": Timed(),
    "mpeg4.mkv": Timed("mpeg4"),
    "vp9.webm": Timed("libvpx-vp9", options={"cpu-used": "8", "lag-in-frames": "16"}),
    "vp8.webm": Timed("libvpx", options={"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "h264.flv": Timed(),
    "sorenson.flv": Timed("flv"),
    "h264.ts": Timed(),
    "wmv2.wmv": Timed("wmv2"),
    "moving.gif": Timed("gif", "rgb8"),
    "h264.avi": Timed(clock=Fraction(1, 100)),
    "mpeg4.avi": Timed("mpeg4", clock=Fraction(1, 100)),
    "mjpeg.avi": Timed("mjpeg", "yuvj420p", clock=Fraction(1, 100)),
}
WITHOUT_B_FRAMES = ("gif", "libvpx", "libvpx-vp9", "flv", "wmv2", "mjpeg")


def write_timed(path: Path, timed: Timed, milliseconds: Sequence[int], start: int = 0) -> Path:
    """A clip whose frames are shown at times of their own; its clock begins at `start` milliseconds."""
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(timed.codec, rate=timed.rate))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, timed.pixels
        stream.codec_context.thread_count, stream.codec_context.gop_size = 1, 24
        if timed.codec not in WITHOUT_B_FRAMES:
            stream.codec_context.max_b_frames = 2
        stream.codec_context.time_base, stream.options = timed.clock, dict(timed.options)
        for number, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24").reformat(format=timed.pixels)
            frame.pts, frame.time_base = int((time + start) / 1000 / timed.clock), timed.clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown(milliseconds: Sequence[int], moments: Iterable[float]) -> list[int]:
    """The frame that is shown at each moment."""
    return [max(n for n, time in enumerate(milliseconds) if time <= 1000 * moment + 0.1) for moment in moments]


def by_seconds(video: VideoReader, rate: int | None, moment: Moment = WHOLE) -> list[int]:
    """The bar codes of all frames of a grid."""
    info, rule = video.info, FrameRule(999, "head", rate)
    grid = choose_frames(info.num_frames, info.fps, video.timing.times, rule, moment)
    return [number_of(frame) for frame in video.read(grid)]


@pytest.fixture(scope="module", params=[(name, times) for name in TIMED for times in TIMES], ids="-".join)
def timed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    name, times = request.param
    path = tmp_path_factory.mktemp(times) / name
    return write_timed(path, TIMED[name], TIMES[times]), TIMES[times]


def known(path: Path, times: Sequence[int]) -> float:
    """Seconds up to which a file says when frames are shown: AVI does not, of those that the decoder holds back."""
    held_back = {"h264.avi": 2, "mpeg4.avi": 1}.get(path.name, 0)
    return times[-1 - held_back] / 1000 + (0 if held_back else 99)


@pytest.mark.parametrize("rate", [1, 3])
def test_seconds_are_those_of_the_frames(timed: tuple[Path, list[int]], rate: int, reader: str) -> None:
    path, times = timed
    with opened(path, reader) as video:
        assert video.info.num_frames == len(times)
        found = by_seconds(video, rate=rate)
    moments = [moment / rate for moment in range(len(found))]
    assert moments[-1] < times[-1] / 1000 + 2.1  # the last frame is not shown for ever
    moments = [moment for moment in moments if moment < known(path, times)]
    assert moments[-1] + 1 / rate >= min(known(path, times), times[-1] / 1000)
    assert found[: len(moments)] == shown(times, moments)


@pytest.mark.parametrize(("start", "end"), [(0, 2), (1, 2), (3, 7), (1, None), (None, 4)])
def test_moments_are_those_of_the_frames(
    timed: tuple[Path, list[int]], start: int | None, end: int | None, reader: str
) -> None:
    path, times = timed
    first, last = start or 0, end or 99
    if first > times[-1] / 1000:
        return
    inside = [number for number, time in enumerate(times) if 1000 * first <= time < 1000 * last]
    with opened(path, reader) as video:
        assert by_seconds(video, None, Moment(start, end)) == (inside or shown(times, [first]))
        each_second = by_seconds(video, 1, Moment(start, end))
    assert each_second == shown(times, range(first, first + len(each_second)))


@pytest.mark.parametrize("name", ["h264.mkv", "h264.ts", "h264.flv", "h264.mp4"])
@pytest.mark.parametrize("start", [5000, 95_442_000])
def test_a_clock_that_does_not_begin_at_zero(tmp_path: Path, name: str, start: int, reader: str) -> None:
    """In a transport stream, 95,443 seconds is where the clock starts over."""
    times = TIMES["slides"]
    with opened(write_timed(tmp_path / name, TIMED[name], times, start), reader) as video:
        assert by_seconds(video, rate=1) == shown(times, range(12))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.flv", "mjpeg.avi"])
def test_seconds_of_decord_are_those_of_the_frames(tmp_path: Path, name: str) -> None:
    """Its times are up to a tick of the clock too early, so the moments lie between frames."""
    times = [number * 1300 + number * number * 10 for number in range(12)]
    with open_video(write_timed(tmp_path / name, TIMED[name], times), "decord") as video:
        found = by_seconds(video, rate=1)
    assert found == shown(times, range(len(found)))
    assert len(found) >= times[-1] / 1000


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov"])
def test_seconds_of_a_copied_part(tmp_path: Path, name: str, reader: str) -> None:
    """They count from the first frame that the edit list shows."""
    times = TIMES["slides"]
    path = cut(write_timed(tmp_path / name, TIMED[name], times), tmp_path / f"cut_{name}", 4)
    with opened(path, reader) as video:
        (first,) = (number_of(frame) for frame in video.read([0]))
        found = by_seconds(video, rate=1)
    assert times[first] >= 3000
    assert found == shown(times, [times[first] / 1000 + second for second in range(len(found))])


@pytest.mark.parametrize("order", ["back", "ahead", "again"])
def test_joined_transport_streams_have_no_seconds(tmp_path: Path, order: str) -> None:
    early = write_timed(tmp_path / "early.ts", TIMED["h264.ts"], TIMES["slides"]).read_bytes()
    late = write_timed(tmp_path / "late.ts", TIMED["h264.ts"], TIMES["slides"], 60_000).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes({"back": late + early, "ahead": early + late, "again": early + early}[order])
    with open_video(path) as video:
        count = len(TIMES["slides"])
        assert [number_of(frame) for frame in video.read(range(2 * count))] == [*range(count), *range(count)]
        assert f"after frame {count - 1}" in video.timing.problem
        with pytest.raises(DataError, match="no second of it can be found"):
            by_seconds(video, rate=1)


@pytest.mark.parametrize("name", ["plain.h264", "hevc.hevc"])
def test_a_stream_without_a_container_has_no_seconds(tmp_path: Path, name: str, reader: str) -> None:
    made = CLIPS["hevc.mp4"] if "hevc" in name else {}
    with opened(write(tmp_path / name, **made), reader) as video:
        assert [number_of(frame) for frame in video.read([0, 40, FRAMES - 1])] == [0, 40, FRAMES - 1]
        with pytest.raises(DataError, match="no second of it can be found"):
            by_seconds(video, rate=1)


def write_with_cover(path: Path, cover_first: bool, marked: bool) -> Path:
    """A clip with a picture as another video stream, marked as such or not."""
    with av.open(str(path), "w") as container:

        def add_cover() -> VideoStream:
            stream = cast(VideoStream, container.add_stream("mjpeg", rate=FPS))
            stream.width, stream.height, stream.pix_fmt = 8 * WIDTH, 8 * HEIGHT, "yuvj420p"
            if marked:
                stream.disposition = Disposition.attached_pic
            return stream

        cover = add_cover() if cover_first else None
        stream = cast(VideoStream, container.add_stream("libx264", rate=FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        cover = cover or add_cover()
        picture = av.VideoFrame.from_ndarray(np.full((8 * HEIGHT, 8 * WIDTH, 3), 200, np.uint8), format="rgb24")
        picture.pts = 0
        container.mux([*cover.encode(picture), *cover.encode()])
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def with_user_data_first(path: Path) -> Path:
    """The file with the boxes of `moov` in another order, so that its cover is the first stream."""
    whole = path.read_bytes()
    start = whole.index(b"moov") - 4
    end = start + int.from_bytes(whole[start : start + 4], "big")
    boxes, place = [], start + 8
    while place < end:
        size = int.from_bytes(whole[place : place + 4], "big")
        boxes.append(whole[place : place + size])
        place += size
    boxes.sort(key=lambda box: box[4:8] != b"udta")
    path.write_bytes(whole[: start + 8] + b"".join(boxes) + whole[end:])
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition == Disposition.attached_pic
    return path


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("cover_first", [True, False])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_a_cover_is_not_the_video(tmp_path: Path, suffix: str, cover_first: bool, marked: bool, reader: str) -> None:
    path = write_with_cover(tmp_path / f"covered.{suffix}", cover_first, marked)
    if (suffix, cover_first, marked) == ("mp4", True, True):  # FFmpeg always writes it last
        with_user_data_first(path)
        if reader == "torchcodec":
            with pytest.raises(VideoError, match=r"torchcodec: .* not permitted"):  # it seeks in the cover
                open_video(path, reader)
            return
    with opened(path, reader) as video:
        assert by_seconds(video, rate=1) == list(range(0, FRAMES, FPS))
        assert by_seconds(video, None, Moment(2, 4)) == list(range(2 * FPS, 4 * FPS))


def test_a_constant_rate_is_left_to_counting(tmp_path: Path) -> None:
    """Published figures count frames there, so that 29.97 frames per second are taken for 29."""
    for name, made in CLIPS.items():
        if "variable" not in name and ".gif" not in name:
            with open_video(write(tmp_path / name, **made)) as video:
                assert (video.info.fps, video.timing.times) == (FPS, None)


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        (Moment(None, 31), "from second 0 to 31"),
        (Moment(5, None), "from second 5 to the end"),
        (Moment(2, 4), "from second 2 to 4"),
        (Moment(), "as a whole"),
    ],
)
def test_a_moment_in_words(moment: Moment, told: str) -> None:
    assert str(moment) == told


def test_a_moment_of_a_clip(clip: Path, reader: str) -> None:
    if clip.suffix == ".gif" or "variable" in clip.name:
        return  # their frame rates are not what was asked for
    with opened(clip, reader) as video:
        wanted = choose_frames(FRAMES, video.info.fps, None, FrameRule(8, "uniform", None), Moment(2, 4))
        numbers = [number_of(frame) for frame in video.read(wanted)]
    assert numbers == wanted.tolist()
    assert min(numbers) >= 2 * FPS
    assert max(numbers) < 4 * FPS
