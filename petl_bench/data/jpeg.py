"""Frames as JPEG: what a cache of a large set can hold, whose pixels are others than those that were decoded.

By Pillow: torchvision's own functions are deprecated since 0.29, and take any size that a file claims.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor


def jpeg_version() -> str:
    """Of the library that writes and reads JPEG in Pillow."""
    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"


def encoded(frames: Tensor, quality: int) -> list[bytes]:
    """Each frame as a JPEG file; colours have as many pixels as brightness (4:4:4).

    Args:
        frames: uint8 (T, 3, S, S).
        quality: 1 to 100.
    """
    return [_encoded(frame.permute(1, 2, 0).numpy(), quality) for frame in frames]


def _encoded(pixels: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    # `optimize` makes files a twentieth smaller, and quicker to read.
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
    return file.getvalue()


def decode(content: bytes | bytearray, room: Tensor) -> None:
    """Puts the pixels of a JPEG file into `room`.

    Args:
        content: of the file.
        room: uint8 (3, S, S).

    Raises:
        ValueError: it is no JPEG file of that size.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if (found := (3, *image.size[::-1])) != room.shape or image.mode != "RGB":
                raise ValueError(f"it is {image.mode} {found}, and not RGB {(*room.shape,)}")
            pixels = np.array(image)  # (S, S, 3)
    except (ValueError, MemoryError):  # the latter says nothing about the file
        raise
    # Pillow's decoders raise almost anything for cut and damaged files.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
    room.copy_(torch.from_numpy(pixels).permute(2, 0, 1))


def through_jpeg(frames: Tensor, quality: int) -> Tensor:
    """What is left of frames (T, 3, S, S) in a cache of that quality, to the last bit."""
    kept = torch.empty_like(frames)
    for content, room in zip(encoded(frames, quality), kept, strict=True):
        decode(content, room)
    return kept


def joined(files: Sequence[bytes]) -> Tensor:
    """Files one after another, uint8 (n,)."""
    return torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8)
