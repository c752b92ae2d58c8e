"""Bad files, made from a good clip: what people find in dataset folders."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from petl_bench.fixture.scenes import encode

FRAMES, SIZE, FPS = 60, 64, 10


def good_clip(path: Path, suffix: str = ".mp4") -> Path:
    """A clip of noise, large enough that its samples lie far apart; the index comes first in `.mp4`, last in `.mov`."""
    frames = np.random.default_rng(0).integers(256, size=(FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    encode(path.with_suffix(suffix), frames, FPS)
    return path.with_suffix(suffix)


def _patched(whole: bytes, box: bytes, offset: int, value: int) -> bytes:
    """The file with a big-endian number in a box changed; `offset` counts from the end of the box's name."""
    place = whole.index(box) + 4 + offset
    return whole[:place] + struct.pack(">I", value) + whole[place + 4 :]


def _media(whole: bytes) -> tuple[int, int]:
    """Where the samples of an mp4 begin and end."""
    start = whole.index(b"mdat") + 4
    (size,) = struct.unpack(">I", whole[start - 8 : start - 4])
    return start, start - 8 + size


def _media_replaced(whole: bytes, first: float, last: float, fill: Callable[[int], bytes]) -> bytes:
    start, end = _media(whole)
    start, end = start + int(first * (end - start)), start + int(last * (end - start))
    return whole[:start] + fill(end - start) + whole[end:]


def _audio(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]  # of an audio stream
        container.mux(stream.encode())  # type: ignore[attr-defined]  # of an audio stream


def write_bad_files(folder: Path) -> dict[str, Path]:
    """Writes every kind of bad file; returns them by name of the fault."""
    folder.mkdir()
    first = good_clip(folder.parent / "first").read_bytes()  # index first
    last = good_clip(folder.parent / "last", ".mov").read_bytes()  # index last
    noise = np.random.default_rng(1).bytes
    contents = {
        "empty": b"",
        "zeros": bytes(20_000),
        "random": noise(20_000),
        "text": b"this is no video\n" * 200,
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n",
        **{f"first_cut_{share}": first[: len(first) * share // 100] for share in (1, 10, 50, 90, 99)},
        **{f"last_cut_{share}": last[: len(last) * share // 100] for share in (1, 10, 50, 90, 99)},
        "header_only": first[: first.index(b"mdat") - 4],
        "count_2_31": _patched(first, b"stts", 8, 2**31 - 1),
        "sizes_2_32": _patched(first, b"stsz", 8, 2**32 - 1),
        "timescale_0": _patched(first, b"mdhd", 12, 0),
        "media_zeros": _media_replaced(first, 0, 1, bytes),
        "middle_zeros": _media_replaced(first, 0.4, 0.6, bytes),
        "middle_random": _media_replaced(first, 0.4, 0.6, noise),
    }
    paths = {name: folder / f"{name}.mp4" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    for name in ("audio", "jpeg", "directory", "loop", "fifo", "gone"):
        paths[name] = folder / f"{name}.mp4"
    _audio(paths["audio"])
    Image.new("RGB", (64, 64), "red").save(paths["jpeg"], format="JPEG")
    paths["directory"].mkdir()
    paths["loop"].symlink_to(paths["loop"])
    os.mkfifo(paths["fifo"])
    return paths
