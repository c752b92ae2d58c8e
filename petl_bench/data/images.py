"""Still images as clips of one frame, so that every method runs on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from petl_bench.data.reader import VideoError, VideoInfo, VideoReader

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
#: what Pillow may take a file for, whatever its suffix says; its other decoders are not needed
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


class ImageReader(VideoReader):
    """A still image: turned as EXIF says, without transparency, 16 bits scaled to 8.

    Raises:
        VideoError: it cannot be read as one of `IMAGE_SUFFIXES`, is cut, or too large to be a picture.
    """

    def _open(self) -> VideoInfo:
        with self._image() as image:
            pixels = _to_rgb(image)
        self._pixels = pixels
        return VideoInfo(1, 0.0, pixels.shape[1], pixels.shape[0])

    def _decode(self, wanted: set[int]) -> dict[int, np.ndarray]:
        return {0: self._pixels}

    @contextmanager
    def _image(self) -> Iterator[Image.Image]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(self.path, formats=_FORMATS) as image:
                    image.load()
                    yield ImageOps.exif_transpose(image)
        except UnidentifiedImageError as error:
            raise VideoError(f"{self.path}: no JPEG, PNG, WebP or BMP image") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise VideoError(f"{self.path}: too many pixels for a picture; refusing it") from error
        # Pillow's decoders raise these for cut and damaged files.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
            raise VideoError(f"{self.path}: {error}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3)."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        return np.repeat((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))
