"""Still images as clips of one frame, so that every method runs on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from petl_bench.data.reader import VideoError, VideoInfo, VideoReader
from petl_bench.machine.resources import exhausted_by_parser

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
#: what Pillow may take a file for, whatever its suffix says; its other decoders are not needed
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
#: what turns a picture upright, by EXIF's number for how it lies
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageReader(VideoReader):
    """A still image: turned as EXIF says, without transparency, 16 bits scaled to 8.

    Where the EXIF block is damaged, the pixels are taken as they lie.

    Raises:
        VideoError: it cannot be read as one of `IMAGE_SUFFIXES`, is cut, or too large to be a picture.
    """

    def _open(self) -> VideoInfo:
        with self._image() as image:
            pixels = _to_rgb(image)
        self._pixels = pixels
        return VideoInfo(1, 0.0, pixels.shape[1], pixels.shape[0])

    def _decode(self, wanted: set[int]) -> Iterable[tuple[int, np.ndarray]]:
        return [(0, self._pixels)]

    @contextmanager
    def _image(self) -> Iterator[Image.Image]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about blocks that are not read
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(self.path, formats=_FORMATS) as image:
                    image.load()
                    yield _upright(image)
        except UnidentifiedImageError as error:
            raise VideoError(f"{self.path}: no JPEG, PNG, WebP or BMP image") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise VideoError(f"{self.path}: too many pixels for a picture; refusing it") from error
        except MemoryError:  # says nothing about the file
            raise
        # Pillow's decoders raise almost anything for cut and damaged files.
        except Exception as error:
            if lacking := exhausted_by_parser(error, self.path):
                raise lacking from error
            raise VideoError(f"{self.path}: {error or type(error).__name__}") from error


def is_picture(path: Path) -> bool:
    """Whether a file begins as a still image, whatever its name."""
    try:
        with Image.open(path, formats=_FORMATS):
            return True
    except Exception:  # as above
        return False


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF block says, if it says so."""
    try:
        lies = image.getexif().get(ExifTags.Base.Orientation)
    # Foreign bytes again. `ImageOps.exif_transpose` would write the whole block anew, which fails for more of them.
    except Exception:
        return image
    method = _UPRIGHT.get(lies) if isinstance(lies, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3)."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        return np.repeat((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))
