"""Pictures are turned and mirrored exactly as the display matrix says, whatever wrote it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from petl_bench.data.display import Orientation, orientation
from petl_bench.data.sampling import choose_frames
from petl_bench.data.video import VideoError, open_video
from petl_bench.inputs import FrameRule, Moment
from tests.unit.data.test_barcode import TIMED, TIMES, number_of, shown, write_timed
from tests.unit.data.test_video import decode_all, write_clip

ONE, W = 1 << 16, 1 << 30
#: a, b, c, d of each matrix, and where a stored picture goes
PIXELS = {
    "as stored": ((1, 0, 0, 1), lambda image: image),
    "turned left by 90": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "turned by 180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "turned right by 90": ((0, 1, -1, 0), lambda image: np.rot90(image, 3)),
    "mirrored left to right": ((-1, 0, 0, 1), np.fliplr),
    "mirrored top to bottom": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: np.swapaxes(image, 0, 1)),
    "transposed and turned by 180": ((0, -1, -1, 0), lambda image: np.rot90(np.swapaxes(image, 0, 1), 2)),
}


def patched(path: Path, *values: float) -> Path:
    """The file with a, b, c, d of its only track's matrix changed, as any other program might have written them."""
    a, b, c, d = (round(value * ONE) for value in values)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"tkhd") + 4 + (52 if whole[whole.index(b"tkhd") + 4] else 40)
    assert struct.unpack(">9i", whole[place : place + 36]) == (ONE, 0, 0, 0, ONE, 0, 0, 0, W)
    whole[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 640 * ONE, 0, W)
    path.write_bytes(bytes(whole))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.mark.parametrize("name", PIXELS)
@pytest.mark.parametrize("scale", [(1, 1), (2, 0.5), (0.3, 0.3)])
def test_all_eight(name: str, scale: tuple[float, float], clip: Path, tmp_path: Path) -> None:
    (a, b, c, d), move = PIXELS[name]
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    patched(path, a * scale[0], b * scale[0], c * scale[1], d * scale[1])
    stored = decode_all(path)
    with open_video(path) as video:
        frames = video.read([0, 7, 39])
        assert str(video.orientation) == name  # type: ignore[attr-defined]  # of PyAV's reader
        assert (video.info.height, video.info.width) == frames.shape[1:3]
    assert np.array_equal(frames, np.stack([move(stored[number]) for number in (0, 7, 39)]))


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
@pytest.mark.parametrize("name", PIXELS)
def test_other_containers(name: str, suffix: str, tmp_path: Path) -> None:
    (a, b, c, d), move = PIXELS[name]
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_matrix([a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, W])
        for number in range(5):
            image = np.zeros((64, 96, 3), np.uint8)
            image[:20, : 30 + number] = (250, 90, 60)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    stored = decode_all(path)
    with open_video(path) as video:
        frames = video.read(range(5))
    assert np.array_equal(frames, np.stack([move(image) for image in stored]))


@pytest.mark.parametrize("degrees", [45, 30, 10, 89, 135, 200])
def test_a_slant_is_refused(degrees: int, clip: Path, tmp_path: Path) -> None:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    path = tmp_path / "slanted.mp4"
    path.write_bytes(clip.read_bytes())
    patched(path, cosine, sine, -sine, cosine)
    with pytest.raises(VideoError, match=r"slanted\.mp4: its display matrix .* is neither a quarter turn nor a mirror"):
        open_video(path)


@pytest.mark.parametrize("matrix", [(1, 0.5, 0, 1), (1, 1, 1, 1), (0, 1, 0, 0), (1, 0, 0, 0)])
def test_a_shear_and_a_line_are_refused(matrix: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="neither a quarter turn"):
        orientation(*(round(value * ONE) for value in matrix))


def test_a_matrix_of_zeros_says_nothing() -> None:
    assert orientation(0, 0, 0, 0) == Orientation()


def test_rounding_is_no_slant() -> None:
    assert orientation(3, ONE, -ONE, -3) == Orientation(270)
    assert orientation(-ONE, 500, 500, ONE) == Orientation(0, True)


def test_side_data_that_pyav_does_not_know(tmp_path: Path) -> None:
    """EXIF in motion JPEG: FFmpeg makes a matrix of it, and PyAV lists neither."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3))
    content = io.BytesIO()
    stored.save(content, "JPEG", exif=exif, quality=95)
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        for number in range(3):
            packet = av.Packet(content.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            container.mux(packet)
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == (16, 32)
        assert np.array_equal(video.read([2])[0], np.rot90(decode_all(path)[2], -1))


@pytest.mark.parametrize("name", PIXELS)
def test_seconds_of_a_clip_that_is_turned_or_mirrored(name: str, tmp_path: Path) -> None:
    matrix, move = PIXELS[name]
    probe = np.arange(6).reshape(2, 3, 1)
    undo = next(other for _, other in PIXELS.values() if np.array_equal(other(move(probe)), probe))
    path = patched(write_timed(tmp_path / "turned.mp4", TIMED["h264.mp4"], TIMES["slides"]), *matrix)
    with open_video(path) as video:
        info, rule = video.info, FrameRule(99, "head", 1)
        grid = choose_frames(info.num_frames, info.fps, video.timing.times, rule, Moment(2, 10))
        found = [number_of(undo(frame)) for frame in video.read(grid)]
    assert found == shown(TIMES["slides"], range(2, 11))
