"""Small pictures of clips for a page: a frame from the middle, as a JPEG inside the page.

A clip that is not there, or cannot be read, has none; that never fails a report.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from itertools import islice, product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from petl_bench.storage.untrusted import is_file

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = ("", ".mp4", ".avi", ".mkv", ".webm", ".mov", ".jpg", ".jpeg", ".png", ".gif")
_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".gif"})
_SIDE, _QUALITY = 112, 55
#: bytes of pictures in one page, as base64; the rest of the queries is told in words
MOST_BYTES = 2_000_000
#: pixels of a picture that are decoded; a small file may claim any number
_MOST_PIXELS = 50_000_000
#: frames that are decoded between a keyframe and the second that is wanted
_MOST_FRAMES = 600
#: Pillow's names of `_IMAGES`
_FORMATS = ("JPEG", "PNG", "GIF")


class Clips:
    """Where pictures come from: one folder that the user names.

    Not from where a record says that its data were: records are foreign, and would choose what a page shows of this
    machine.

    Args:
        folder: with the clips, by their ids, or with a folder `videos` of them; None: there are no pictures.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folders = () if folder is None else (folder, folder / "videos")
        self._spent = 0
        self._pictures = lru_cache(maxsize=512)(picture)

    def new_page(self) -> None:
        """Every page has its own allowance."""
        self._spent = 0

    @property
    def any(self) -> bool:
        """Whether there may be pictures."""
        return bool(self._folders)

    def of(self, id: str) -> str | None:
        """The picture of a clip, a data URI."""
        for root in self._folders:
            uri = self._pictures(root, id)
            if uri is not None and self._spent + len(uri) <= MOST_BYTES:
                self._spent += len(uri)
                return uri
        return None


def picture(folder: Path, id: str) -> str | None:
    """A clip of a folder as a small JPEG, a data URI."""
    try:
        path = _find(folder, id)
    except OSError:
        return None
    return None if path is None else still(path)


def still(path: Path, second: float | None = None, side: int = _SIDE) -> str | None:
    """A frame of a video, or a picture, as a small JPEG, a data URI; None of a file that cannot be read.

    Args:
        path: of the file.
        second: of the frame, about; None is the middle.
        side: of the JPEG in pixels, at most.
    """
    try:
        image = _read(path, second, side)
        if image is None:
            return None
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    except Exception:  # whatever a decoder says of a foreign file, or a disk that is gone
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _find(folder: Path, id: str) -> Path | None:
    """A file of the folder; names come from records, and lead nowhere else."""
    name = PurePosixPath(id)
    if not id or name.is_absolute() or ".." in name.parts or "\0" in id:
        return None
    # A clip in reverse (`petl_bench.data.samples.REVERSED`) is the same file, and its middle the same frame.
    stems = dict.fromkeys((id, id.removesuffix("_reversed")))
    for stem, suffix in product(stems, SUFFIXES):
        path = folder / f"{stem}{suffix}"
        if path.suffix.lower() in SUFFIXES[1:] and is_file(path):
            return path if path.resolve().is_relative_to(folder.resolve()) else None
    return None


def _read(path: Path, second: float | None, side: int) -> Image | None:
    if path.suffix.lower() in _IMAGES:
        from PIL import Image as images

        image = images.open(path, formats=_FORMATS)
        if image.width * image.height > _MOST_PIXELS:
            return None
        image.draft("RGB", (2 * side, 2 * side))
        return image
    from petl_bench.data.opening import opened

    with opened(path.absolute()) as (container, stream):
        if stream.codec_context.width * stream.codec_context.height > _MOST_PIXELS:
            return None
        if second is not None:
            container.seek(int(second * 1_000_000))
        elif container.duration:
            container.seek(container.duration // 2)
        frames: Any = container.decode(stream)
        frame = next(frames, None)
        if frame is not None and second is not None:  # a seek leads to the keyframe before
            later = (later for later in islice(frames, _MOST_FRAMES) if later.time is None or later.time >= second)
            frame = frame if frame.time is None or frame.time >= second else next(later, frame)
        return None if frame is None else _as_shown(frame)


def _as_shown(frame: Any) -> Image:
    """A frame turned as its display matrix says."""
    from PIL import Image as images

    from petl_bench.data.display import orientation_of

    return images.fromarray(orientation_of(frame).shown(frame.to_ndarray(format="rgb24")))
