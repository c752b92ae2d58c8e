"""Small pictures of clips for a page: a frame from the middle, as a JPEG inside the page.

A clip that is not there, or cannot be read, has none; that never fails a report.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from petl_bench.errors import ResourceError
from petl_bench.storage.untrusted import UnreadableError, is_file, is_folder, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG_NAME = "config.yaml"
SUFFIXES = ("", ".mp4", ".avi", ".mkv", ".webm", ".mov", ".jpg", ".jpeg", ".png", ".gif")
_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".gif"})
_SIDE, _QUALITY = 112, 55
#: bytes of pictures in one page, as base64; the rest of the queries is told in words
MOST_BYTES = 2_000_000
#: bytes of a config.yaml
_MOST_CONFIG = 1_000_000
#: pixels of a picture that are decoded; a small file may claim any number
_MOST_PIXELS = 50_000_000


class Clips:
    """Where pictures come from.

    Args:
        folder: with the clips; None for the data roots that configurations name.
        by_config: whether those are looked at.
    """

    def __init__(self, folder: Path | None = None, by_config: bool = False) -> None:
        self.folder = folder
        self.by_config = by_config
        self._spent = 0
        self._roots = lru_cache(maxsize=64)(_roots)
        self._pictures = lru_cache(maxsize=512)(picture)

    def new_page(self) -> None:
        """Every page has its own allowance."""
        self._spent = 0

    @property
    def any(self) -> bool:
        """Whether there may be pictures."""
        return self.folder is not None or self.by_config

    def of(self, record: Path, id: str) -> str | None:
        """A data URI.

        Args:
            record: where the record lies whose ranks name the clip.
            id: of the clip.
        """
        for root in self._folders(record):
            uri = self._pictures(root, id)
            if uri is not None and self._spent + len(uri) <= MOST_BYTES:
                self._spent += len(uri)
                return uri
        return None

    def _folders(self, record: Path) -> tuple[Path, ...]:
        if self.folder is not None:
            return (self.folder, self.folder / "videos")
        return self._roots(record.with_name(CONFIG_NAME)) if self.by_config else ()


def picture(folder: Path, id: str) -> str | None:
    """A clip of a folder as a small JPEG, a data URI."""
    try:
        path = _find(folder, id)
        image = None if path is None else _read(path)
        if image is None:
            return None
        image.thumbnail((_SIDE, _SIDE))
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
    for suffix in SUFFIXES:
        path = folder / f"{id}{suffix}"
        if path.suffix.lower() in SUFFIXES[1:] and is_file(path):
            return path if path.resolve().is_relative_to(folder.resolve()) else None
    return None


def _read(path: Path) -> Image | None:
    if path.suffix.lower() in _IMAGES:
        from PIL import Image as images

        image = images.open(path)
        if image.width * image.height > _MOST_PIXELS:
            return None
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        return image
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        if stream.codec_context.width * stream.codec_context.height > _MOST_PIXELS:
            return None
        if container.duration:
            container.seek(container.duration // 2)
        frame: Any = next(container.decode(stream), None)
        return None if frame is None else frame.to_image()


def _roots(config: Path) -> tuple[Path, ...]:
    """Folders where a run found its clips, if they are still there."""
    try:
        found = yaml.load(read_bytes(config, _MOST_CONFIG), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        options = dict(found["data"]["init_args"])
        root, videos = Path(str(options["root"])), str(options.get("videos") or "")
    except (UnreadableError, ResourceError, yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(folder for folder in dict.fromkeys((root / videos, root)) if is_folder(folder))
