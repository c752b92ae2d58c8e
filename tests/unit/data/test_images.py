"""Still images as clips of one frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_16_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]


def test_an_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    options = {"count": 4, "sampling": "uniform", "rate": None, "image_size": 4, "resize": "squash"}
    frames, count = load_frames(tmp_path / "a.png", **options)  # type: ignore[arg-type]  # as named
    assert (count, frames.shape) == (1, (1, 3, 4, 4))


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
