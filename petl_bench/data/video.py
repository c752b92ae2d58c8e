"""Reads frames of video files: one small interface over PyAV (default) and decord.

Frame `i` always means the i-th frame of a full sequential decode. Every file that cannot give the frames
asked for raises `VideoError`; no reader ever returns substitutes. Measurements behind the choices:
specs/performance.md section 1 and specs/reliability.md section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from petl_bench.data.images import IMAGE_SUFFIXES, ImageReader
from petl_bench.data.reader import VideoError, VideoInfo, VideoReader
from petl_bench.data.sampling import choose_frames
from petl_bench.errors import DataError, UsageError

Resize = Literal["shorter_side_crop", "squash"]

#: frames per second below which no video is: what a damaged time scale gives, with most frames hidden
_SLOWEST = Fraction(1, 60)


class WholeStream(NamedTuple):
    """What decoding a whole stream showed: frames, FFmpeg's name of the codec, rotation in degrees (applied)."""

    frames: int
    codec: str
    rotation: int


class PyAVReader(VideoReader):
    """Sequential decode with PyAV, never a seek, so that frame numbers are right whatever the container.

    Holds no open file between calls. The display rotation is applied, the best video stream is taken, and
    decoding stops after the last wanted frame. A file that was cut short is recognised where the container
    says where its samples lie (mp4, mov, indexed AVI); for Matroska and transport streams only a checksum can
    tell.
    """

    def _open(self) -> VideoInfo:
        with _av_stream(self.path) as (container, stream):
            trusted = _packets_are_frames(container, stream)
            _require_complete(self.path, container, stream)
            first: av.VideoFrame | None = None
            decoded = 0
            timestamps: list[int | None] = []
            for packet in container.demux(stream):
                if first is None or not trusted:
                    for frame in packet.decode():
                        first = first or frame
                        decoded += 1
                # An empty packet only flushes the decoder; a discarded one is hidden by the edit list.
                if packet.size and not packet.is_discard:
                    timestamps.append(packet.pts)
            if first is None:
                raise VideoError(f"{self.path}: no frame can be decoded")
            height, width = _to_rgb(first, VideoReformatter()).shape[:2]
            shown = sorted(pts for pts in timestamps if pts is not None)
            # Distinct timestamps on every packet number the frames without decoding them.
            distinct = trusted and len(set(shown)) == len(timestamps)
            self._frame_number = {pts: number for number, pts in enumerate(shown)} if distinct else None
            num_frames = len(timestamps) if trusted else decoded
            rate = stream.average_rate or stream.guessed_rate
            self._seconds = _varying_seconds(shown, stream.time_base, rate) if distinct else None
            if rate and len(stream.index_entries) > 1 and rate < _SLOWEST:
                raise VideoError(f"{self.path}: a frame every {1 / rate} seconds; its times are damaged")
            return VideoInfo(num_frames, float(rate or 0), width, height)

    def _decode(self, wanted: set[int]) -> dict[int, np.ndarray]:
        reformatter = VideoReformatter()
        frames: dict[int, np.ndarray] = {}
        with _av_stream(self.path) as (container, stream):
            for number, frame in self._numbered(container, stream, wanted):
                if number in wanted:
                    if frame.is_corrupt:
                        raise VideoError(f"{self.path}: frame {number} is damaged")
                    frames[number] = _to_rgb(frame, reformatter)
                if len(frames) == len(wanted):
                    break
        return frames

    def shown_at(self, numbers: np.ndarray) -> np.ndarray:
        if self._seconds is None:
            return numbers
        # A frame is shown until the next one comes; half a tick guards against rounding.
        return np.searchsorted(self._seconds, numbers / self.info.fps + 1e-4, side="right") - 1

    def decode_whole(self) -> WholeStream:
        """Decodes every frame, wanted or not.

        Raises:
            VideoError: a frame is damaged, or the size changes.
        """
        count, sizes = 0, set()
        frame: av.VideoFrame | None = None
        with _av_stream(self.path) as (container, stream):
            for count, frame in enumerate(container.decode(stream), 1):
                sizes.add((frame.width, frame.height))
                if frame.is_corrupt:
                    raise VideoError(f"{self.path}: frame {count - 1} is damaged")
                if len(sizes) > 1:
                    raise VideoError(f"{self.path}: the frame size changes within the video")
            codec = stream.codec_context.name
        return WholeStream(count, codec, frame.rotation if frame else 0)

    def _numbered(
        self, container: InputContainer, stream: VideoStream, wanted: set[int]
    ) -> Iterator[tuple[int | None, av.VideoFrame]]:
        if self._frame_number is None:
            yield from enumerate(container.decode(stream))
            return
        # No other picture needs what H.264 marks as non-reference: unless wanted, it is skipped.
        skippable = stream.codec_context.name == "h264"
        for packet in container.demux(stream):
            if skippable and packet.pts is not None:
                keep = self._frame_number.get(packet.pts) in wanted
                stream.codec_context.skip_frame = "DEFAULT" if keep else "NONREF"
            for frame in packet.decode():
                yield self._frame_number.get(frame.pts) if frame.pts is not None else None, frame


class DecordReader(VideoReader):
    """decord, for parity with published pipelines; one thread, because more are slower and not repeatable.

    It gives wrong frames on cut mp4, AVI or transport streams with B-frames (specs/performance.md 1.2) and
    ends the process on some damaged files: prefer `PyAVReader`.

    Raises:
        UsageError: decord is not installed.
    """

    def _open(self) -> VideoInfo:
        try:
            import decord
        except ImportError as error:
            raise UsageError("reader: decord is not installed; pip install decord, or use reader: pyav") from error
        self._errors: tuple[type[Exception], ...] = (decord.DECORDError, RuntimeError, IndexError)
        with self._translated():
            self._video: Any = decord.VideoReader(str(self.path), num_threads=1)
            if len(self._video) == 0:
                raise VideoError(f"{self.path}: no frame can be decoded")
            height, width = self._video[0].shape[:2]
            return VideoInfo(len(self._video), float(self._video.get_avg_fps()), width, height)

    def _decode(self, wanted: set[int]) -> dict[int, np.ndarray]:
        numbers = sorted(wanted)
        with self._translated():
            return dict(zip(numbers, self._video.get_batch(numbers).asnumpy(), strict=True))

    def close(self) -> None:
        # decord reads ahead without bound while it lives.
        self._video = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise VideoError(f"{self.path}: decord: {_first_line(error)}") from error


READERS: dict[str, type[VideoReader]] = {"pyav": PyAVReader, "decord": DecordReader}


def open_video(path: str | Path, reader: str = "pyav") -> VideoReader:
    """Opens a video with the named reader; a file named as a still image is a video of one frame.

    Raises:
        UsageError: No such reader, or its package is missing.
        VideoError: The file cannot be read as a video.
    """
    if reader not in READERS:
        raise UsageError(f"reader: {reader!r} is unknown; choose one of {', '.join(READERS)}")
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return ImageReader(path)
    return READERS[reader](path)


def load_frames(
    path: str | Path,
    *,
    count: int,
    sampling: str,
    rate: int | None,
    image_size: int,
    resize: Resize,
    reader: str = "pyav",
    rng: np.random.Generator | None = None,
    start: int | None = None,
    end: int | None = None,
    augment: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[torch.Tensor, int]:
    """Samples, decodes and resizes the frames of one clip.

    Args:
        path: The video file.
        count: Frames wanted.
        sampling: Selection rule, a name in `sampling.SAMPLERS`.
        rate: Frames per second considered (CLIP4Clip: 1), those shown at that time where the frame rate varies; None
            considers all by number.
        image_size: S, the side of the square result in pixels.
        resize: How the square is made, see `resize_frames`.
        reader: A name in `READERS`.
        rng: Source of randomness for random sampling.
        start: First second of the moment, None for the start of the video.
        end: End of the moment in seconds.
        augment: Changes the decoded frames, uint8 (n, H, W, 3), before they are resized.

    Returns:
        uint8 frames (n, 3, S, S) and n, with 1 <= n <= count.

    Raises:
        VideoError: The file cannot be read, or has no frame in the moment.
        UsageError: `sampling`, `reader` or `resize` is unknown.
        ValueError: Random sampling without `rng`.
    """
    with open_video(path, reader) as video:
        num_frames, fps = video.info.num_frames, video.info.fps
        try:
            indices = choose_frames(
                num_frames, fps, count=count, sampling=sampling, rate=rate, rng=rng, start=start, end=end
            )
        except DataError as error:
            raise VideoError(f"{path}: {error}") from error
        if len(indices) == 0:
            raise VideoError(f"{path}: no frame between second {start} and {end}; {num_frames} frames at {fps:g} fps")
        if in_time(rate, start, end):
            indices = video.shown_at(indices)
        pixels = video.read(indices)  # (n, H, W, 3)
    if augment is not None:
        pixels = augment(pixels)
    # The permuted view keeps channels last in memory, which torchvision resizes at twice the speed.
    frames = resize_frames(torch.from_numpy(pixels).permute(0, 3, 1, 2), image_size, resize)
    return frames, len(frames)


def in_time(rate: int | None, start: int | None, end: int | None) -> bool:
    """Whether frames are chosen by seconds, so that a variable rate matters; else by their number."""
    return rate is not None or start is not None or end is not None


def resize_frames(frames: torch.Tensor, image_size: int, resize: Resize) -> torch.Tensor:
    """Makes frames square with antialiased bicubic interpolation on uint8, within 2 levels of PIL.

    Widths are resized before heights, as in the Pillow that published models were trained with. Pillow 13 may
    take the other order, which moves pixels of squashed portrait videos by up to 7 levels.

    Args:
        frames: uint8 (n, 3, H, W), fastest with channels-last strides.
        image_size: S, in pixels.
        resize: `shorter_side_crop` scales the shorter side to S and crops the centre (CLIP); `squash` scales
        both
            sides to S (BLIP).

    Returns:
        uint8 (n, 3, S, S), contiguous.

    Raises:
        UsageError: `resize` is neither.
    """
    sizes = {"shorter_side_crop": [image_size], "squash": [image_size, image_size]}
    if resize not in sizes:
        raise UsageError(f"resize: {resize!r} is unknown; choose one of {', '.join(sizes)}")
    scaled = transforms.resize(frames, sizes[resize], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return transforms.center_crop(scaled, [image_size, image_size]).contiguous()


def pad_frames(frames: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads a clip with zero frames at the end, as CLIP4Clip does; the mask tells them from real ones.

    Args:
        frames: (n, 3, S, S) with n <= count.
        count: Frames per clip in the batch.

    Returns:
        Frames (count, 3, S, S) and mask (count,), bool, True where a frame is real.

    Raises:
        ValueError: There are more than `count` frames.
    """
    if len(frames) > count:
        raise ValueError(f"{len(frames)} frames do not fit into {count}")
    padding = frames.new_zeros((count - len(frames), *frames.shape[1:]))
    return torch.cat([frames, padding]), torch.arange(count) < len(frames)


@contextmanager
def _av_stream(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its best video stream; every failure inside the block becomes VideoError."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            # FFmpeg recognises content, not names: a picture saved as .mp4 would be a video of one frame.
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise VideoError(f"{path}: a still image, not a video")
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or Disposition.attached_pic in stream.disposition:
                raise VideoError(f"{path}: no video stream")
            if stream.codec_context is None:
                raise VideoError(f"{path}: no decoder for its video stream; the file is damaged or of an unknown kind")
            stream.codec_context.thread_count = 1
            yield container, stream
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: {_first_line(error)}") from error


def _varying_seconds(pts: list[int], time_base: Fraction | None, rate: Fraction | None) -> np.ndarray | None:
    """When each frame is shown, from the first one on (n,), if that is ever a frame away from a constant rate."""
    if not (time_base and rate and pts):
        return None
    seconds = (np.array(pts) - pts[0]) * float(time_base)
    even = np.arange(len(pts)) / float(rate)
    return seconds if np.abs(seconds - even).max() > 1 / rate else None


def _packets_are_frames(container: InputContainer, stream: VideoStream) -> bool:
    """Whether counting packets counts frames: AVI has empty and packed ones, VP8 hidden frames."""
    formats = set(container.format.name.split(","))
    return not formats.isdisjoint({"mp4", "matroska"}) and stream.codec_context.name != "vp8"


def _require_complete(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """Refuses a file that ends before its samples do.

    The sample table is compared with the file size rather than the frame counts, since an edit list that
    hides the end of a video makes the counts differ in a file that is intact.
    """
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise VideoError(f"{path}: truncated, {container.size} of at least {end} bytes are there")


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """(H, W, 3) uint8, turned as the display matrix says."""
    image = reformatter.reformat(frame, format="rgb24").to_ndarray()
    # Both count degrees counterclockwise.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]
