"""Still images as clips of one frame."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from petl_bench.data.video import VideoError, load_frames, open_video

HEIGHT, WIDTH = 6, 10


def picture(mode: str = "RGB") -> Image.Image:
    """The left half red, the right half blue."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2, 0] = 255
    pixels[:, WIDTH // 2 :, 2] = 255
    return Image.fromarray(pixels).convert(mode)


def read(path: Path) -> np.ndarray:
    with open_video(path) as video:
        assert (video.info.num_frames, video.info.fps) == (1, 0.0)
        (frame,) = video.read([0])
    return frame


@pytest.mark.parametrize(("mode", "name"), [("RGB", "a.PNG"), ("P", "a.png"), ("RGBA", "a.png"), ("RGB", "a.bmp")])
def test_lossless_images(tmp_path: Path, mode: str, name: str) -> None:
    picture(mode).save(tmp_path / name)
    frame = read(tmp_path / name)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame[0, 0].tolist() == [255, 0, 0]
    assert frame[0, -1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpeg(tmp_path: Path, mode: str) -> None:
    picture(mode).save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(picture(mode).convert("RGB")).astype(int)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - expected).mean() < 20


def test_an_image_is_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture().save(tmp_path / "a.png", exif=exif)
    frame = read(tmp_path / "a.png")
    assert frame.shape == (WIDTH, HEIGHT, 3)
    assert frame[0, 0].tolist() == [255, 0, 0]
    assert frame[-1, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_all_eight_orientations(suffix: str, number: int, tmp_path: Path) -> None:
    """As Pillow itself turns them, which the tests of other programs' files have proved."""
    noise = np.random.default_rng(0).integers(256, size=(16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = number
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(noise).save(path, exif=exif, **options)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read(path), upright)


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block with entries (tag, type, count, four bytes of value or offset), right or wrong."""
    table = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"


def with_exif(path: Path, block: bytes) -> Path:
    """A picture with an EXIF block of any bytes."""
    whole = io.BytesIO()
    kind = {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
    picture().save(whole, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    content = whole.getvalue()
    if kind == "JPEG":
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]
    else:
        chunk = b"eXIf" + block.removeprefix(b"Exif\0\0")
        length = struct.pack(">I", len(chunk) - 4)
        content = content[:33] + length + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    path.write_bytes(content)
    return path


RATIONAL_AS_TEXT = exif_of((0x0112, 3, 1, b"\x06\0\0\0"), (0x011A, 2, 4, b"72/1"), (0x829A, 2, 4, b"1/60"))
DAMAGED_EXIF = {
    "rational as text": RATIONAL_AS_TEXT,
    "junk": b"junk",
    "empty": b"",
    "header only": b"Exif\0\0II*\0",
    "cut table": exif_of((0x0112, 3, 1, b"\x06\0\0\0"))[:-9],
    "offset outside": exif_of((0x8769, 4, 1, b"\xff\xff\xff\x7f"), (0x011A, 5, 1, b"\xf0\xff\xff\xff")),
    "table within itself": exif_of((0x8769, 4, 1, b"\x08\0\0\0"), (0x8825, 4, 1, b"\x08\0\0\0")),
    "orientation as text": exif_of((0x0112, 2, 2, b"6\0\0\0")),
    "orientation as rational": exif_of((0x0112, 5, 1, b"\x08\0\0\0")),
    "two orientations": exif_of((0x0112, 3, 2, b"\x06\0\x03\0")),
    "orientation 0": exif_of((0x0112, 3, 1, b"\0\0\0\0")),
    "orientation 9": exif_of((0x0112, 3, 1, b"\x09\0\0\0")),
    "orientation 65535": exif_of((0x0112, 3, 1, b"\xff\xff\0\0")),
    "unknown type": exif_of((0x0112, 99, 1, b"\x06\0\0\0")),
    "huge count": exif_of((0x0112, 3, 2**32 - 1, b"\x06\0\0\0"), (0x010F, 2, 2**31, b"\x08\0\0\0")),
}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("fault", DAMAGED_EXIF)
def test_pixels_count_where_exif_is_damaged(fault: str, suffix: str, tmp_path: Path) -> None:
    frame = read(with_exif(tmp_path / f"a.{suffix}", DAMAGED_EXIF[fault])).astype(int)
    plain = np.asarray(picture()).astype(int)
    if fault in ("rational as text", "two orientations"):  # the picture does lie on its side
        plain = np.rot90(plain, -1)
    assert frame.shape == plain.shape
    assert np.abs(frame - plain).mean() < 20


def test_no_exif_block_stops_a_reader(tmp_path: Path) -> None:
    """Random bytes, and sound blocks with random bytes in them."""
    rng = np.random.default_rng(0)
    for number in range(400):
        block = bytearray(RATIONAL_AS_TEXT if number % 2 else b"Exif\0\0" + rng.bytes(int(rng.integers(80))))
        for place in rng.integers(len(block), size=int(rng.integers(1, 6))):
            block[place] = int(rng.integers(256))
        frame = read(with_exif(tmp_path / ("a.jpg" if number % 4 < 2 else "a.png"), bytes(block)))
        assert sorted(frame.shape) == [3, HEIGHT, WIDTH]


def test_16_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("rate", [None, 1])
def test_an_image_is_a_clip_of_one_frame(rate: int | None, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    options = {"count": 4, "sampling": "uniform", "rate": rate, "image_size": 4, "resize": "squash"}
    frames, times = load_frames(tmp_path / "a.png", **options)  # type: ignore[arg-type]  # as named
    assert (times.tolist(), frames.shape) == ([0.0], (1, 3, 4, 4))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"GIF89a" + bytes(50), b"\xff\xd8\xff\xe0" + bytes(100)],
    ids=["empty", "text", "gif", "jpeg"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.jpg"):
        open_video(path)


@pytest.mark.parametrize(("name", "share"), [("a.jpg", 0.6), ("a.png", 0.6), ("a.webp", 0.6), ("a.bmp", 0.6)])
def test_a_cut_image_is_refused(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(VideoError, match=name):
        open_video(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(VideoError, match="too many pixels"):
        open_video(path)
