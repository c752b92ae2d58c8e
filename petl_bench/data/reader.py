"""What a reader of clips is; `petl_bench.data.video` and `petl_bench.data.images` have the ones there are."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from petl_bench.data.timing import Timing
from petl_bench.errors import DataError
from petl_bench.machine.resources import exhausted

#: Version of what a reader makes of a file: which frame a number or a second means, and which way up it is. Caches and
#: manifests carry it. 1: petl_bench 0.1.0 up to commit 3e531d0, which took a header's frame rate for the frames' times
#: outside mp4 and Matroska, and a display matrix for an angle. 2: times of the frames, mirrors and transposes.
READING_RULES = 2


class VideoError(DataError):
    """A video file is missing, damaged or has no readable frame; the message names file and cause."""


class VideoInfo(NamedTuple):
    """Number of frames, frames per second (0 when unknown), width and height in pixels as shown."""

    num_frames: int
    fps: float
    width: int
    height: int


class VideoReader(ABC):
    """An open video, used as a context manager and dropped at once, since decoders hold much memory.

    Args:
        path: a regular file.
        known_frames: how many frames a full decode of it has given, which saves a reader from finding out.

    Raises:
        VideoError: the file cannot be read as a video.
        ResourceError: this machine is out of what reading needs, whatever the file is; so, too, of `read`.
    """

    info: VideoInfo
    #: when frames are shown; unknown unless a reader says it
    timing: Timing = Timing(0.0, problem="its frames carry no times")
    #: whether a frame number meant the same pixels under `READING_RULES` 1
    reads_as_rules_1: bool = True

    def __init__(self, path: str | Path, known_frames: int | None = None) -> None:
        self.path, self.known_frames = Path(path).absolute(), known_frames
        _require_regular_file(self.path)
        self.info = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decodes frames by number, in the order asked for; repeats are allowed.

        Returns:
            uint8 (n, H, W, 3), RGB.

        Raises:
            IndexError: a number is outside the video.
            VideoError: a wanted frame cannot be decoded.
        """
        numbers = [int(index) for index in indices]
        if not numbers:
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        frames = dict(self.each(numbers))
        return np.stack([frames[number] for number in numbers])

    def each(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The same frames with their numbers, (H, W, 3) each, one by one as they are decoded: once, and ascending.

        Raises:
            IndexError: as `read`.
            VideoError: as `read`, when the frame's turn comes.
        """
        wanted = {int(index) for index in indices}
        if any(not 0 <= number < self.info.num_frames for number in wanted):
            raise IndexError(f"{self.path}: frames {sorted(wanted)} asked of {self.info.num_frames}")
        shape, missing = (self.info.height, self.info.width, 3), set(wanted)
        for number, frame in self._decode(wanted) if wanted else ():
            if frame.shape != shape:
                raise VideoError(f"{self.path}: the frame size changes within the video")
            missing.discard(number)
            yield number, frame
        if missing:
            raise VideoError(f"{self.path}: frame {min(missing)} of {self.info.num_frames} is missing in the stream")

    def refusal(self, error: DataError) -> VideoError:
        """Why no frames of this file can be chosen, from the error of a sampling rule."""
        reason = f"{self.timing.problem}: " if self.timing.problem else ""
        return VideoError(f"{self.path}: {reason}{error}")

    @abstractmethod
    def _open(self) -> VideoInfo:
        """Opens the file and describes it."""

    @abstractmethod
    def _decode(self, wanted: set[int]) -> Iterable[tuple[int, np.ndarray]]:
        """The wanted frames (H, W, 3) with their numbers, ascending; one that the stream does not give is left out."""

    def close(self) -> None:  # noqa: B027 (a reader that keeps nothing open has nothing to close)
        """Releases the decoder."""


def _require_regular_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise exhausted(error, path) or VideoError(f"{path}: {error.strerror or error}") from error
    # Opening a FIFO would wait for a writer for ever.
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: not a regular file")
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty")
