"""Reads frames of video files: one small interface over PyAV (default), decord and torchcodec.

Frame `i` always means the i-th frame of a full sequential decode, and its time is the one that it carries itself. Every
file that cannot give the frames asked for raises `VideoError`; no reader ever returns substitutes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from petl_bench.data.display import Orientation, orientation_of
from petl_bench.data.entries import Entries
from petl_bench.data.images import IMAGE_SUFFIXES, ImageReader
from petl_bench.data.opening import Packet, first_line, opened, packets
from petl_bench.data.reader import VideoError, VideoInfo, VideoReader
from petl_bench.data.sampling import choose_frames
from petl_bench.data.scan import Scan, scan
from petl_bench.data.timing import Timing, timing
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import WHOLE, Clips, FrameRule, Moment, Resize
from petl_bench.machine.installation import package_version
from petl_bench.machine.resources import exhausted_by_parser

#: frames that decord and torchcodec decode at once
_BATCH = 64
#: packets that are read sooner than sought: a seek costs as much time as reading about 15
_WORTH_A_SEEK = 100
#: seconds (30 years) beyond which a time of decord is a missing one
_FAR = 1e9


class WholeStream(NamedTuple):
    """What decoding a whole stream showed: frames, and FFmpeg's name of the codec."""

    frames: int
    codec: str


class TimedFrames(NamedTuple):
    """The n frames that were chosen of a clip.

    Attributes:
        frames: uint8 (n, 3, S, S).
        times: float32 (n,), as `petl_bench.inputs.Clips.times`.
    """

    frames: torch.Tensor
    times: torch.Tensor


def times_of(numbers: np.ndarray, fps: float, times: np.ndarray | None, moment: Moment = WHOLE) -> torch.Tensor:
    """When frames begin, in seconds after the beginning of the moment: float32 (n,); 0 where a file does not tell.

    Args:
        numbers: (n,) of the frames.
        fps: frames per second of the video, 0 if that is not known.
        times: (num_frames + 1,) seconds at which each frame begins and the last one ends; None for a constant rate.
        moment: the part of the video that is the clip. Grids that count frames may begin a little
            before it (`petl_bench.data.sampling.seconds_grid`); their times are 0.
    """
    if times is None and not fps > 0:
        return torch.zeros(len(numbers))
    begins = numbers / fps if times is None else times[numbers]
    return torch.from_numpy(np.maximum(begins - (moment.start or 0), 0)).float()


class PyAVReader(VideoReader):
    """The frames of a sequential decode with PyAV, so that frame numbers are right whatever the container.

    What no wanted frame needs is left out where that changes no pixel (`petl_bench.data.entries`): pictures that no
    other one is predicted from, and all that comes before a picture from which decoding begins anew. Only of a damaged
    picture that FFmpeg fills in without saying so may pixels depend on what was decoded before. Holds no open file
    between calls. Turns and mirrors of the display matrix are applied, the best video stream is
    taken, and decoding stops after the last wanted frame. A file that was cut short is recognised where the container
    says where its samples lie (mp4, mov, indexed AVI); for Matroska and transport streams only a checksum can tell.
    """

    #: how the first frame is shown
    orientation: Orientation
    #: frames per second as the header says, 0 if it does not
    header_fps: float

    def _open(self) -> VideoInfo:
        return self._described(scan(self.path, self.known_frames))

    def _described(self, found: Scan) -> VideoInfo:
        try:
            self.orientation = orientation_of(found.first)
        except ValueError as error:
            raise VideoError(f"{self.path}: {error}") from error
        self._frame_number, self._entries = found.numbers, found.entries
        self.timing, self.header_fps = found.timing, float(found.header_rate or 0)
        # Rules 1 knew the angle only, so that a mirror was a turn or nothing.
        self.reads_as_rules_1 = self.orientation == Orientation(round(found.first.rotation / 90) * 90 % 360)
        width, height = found.first.width, found.first.height
        if self.orientation.turned % 180:
            width, height = height, width
        return VideoInfo(found.num_frames, found.timing.fps, width, height)

    def _decode(self, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
        left = deque(sorted(wanted))
        # Whatever goes wrong in a decode that leaves out packets, one that does not has the last word.
        with suppress(VideoError):
            yield from self._in_turn(left)
        if left:
            yield from self._given(left)

    def _in_turn(self, left: deque[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Frames that are taken from a list of numbers, as far as they come in its order."""
        if self._entries is None:
            return
        for number, picture in self._given(left, self._entries):
            if number != left[0]:  # a decoder that began late has dropped one
                return
            yield left.popleft(), picture

    def _given(self, left: Sequence[int], entries: Entries | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Frames as the decoder gives them.

        Args:
            left: their numbers; may become fewer as they are given.
            entries: where decoding may begin, whose `left` is rising; None for the first packet only.
        """
        reformatter, missing, wanted = VideoReformatter(), set(left), frozenset(left)
        with opened(self.path) as (container, stream):
            sent = packets(container, stream) if entries is None else _needed(container, stream, left, entries)
            for number, frame in self._numbered(stream, sent, wanted):
                if number in missing:
                    if frame.is_corrupt:
                        raise VideoError(f"{self.path}: frame {number} is damaged")
                    missing.discard(number)
                    yield number, _to_rgb(frame, reformatter)
                if not missing:
                    break

    def decode_whole(self) -> WholeStream:
        """Decodes every frame, wanted or not.

        Raises:
            VideoError: a frame is damaged, or the size changes.
        """
        count, sizes = 0, set()
        with opened(self.path) as (container, stream):
            for count, frame in enumerate(_frames(stream, packets(container, stream)), 1):
                sizes.add((frame.width, frame.height))
                if frame.is_corrupt:
                    raise VideoError(f"{self.path}: frame {count - 1} is damaged")
                if len(sizes) > 1:
                    raise VideoError(f"{self.path}: the frame size changes within the video")
            codec = stream.codec_context.name
        return WholeStream(count, codec)

    def _numbered(
        self, stream: VideoStream, sent: Iterable[Packet | None], wanted: Collection[int]
    ) -> Iterator[tuple[int | None, av.VideoFrame]]:
        if self._frame_number is None:
            yield from enumerate(_frames(stream, sent))
            return
        # No other picture needs what H.264 marks as non-reference: unless wanted, it is skipped.
        skippable = stream.codec_context.name == "h264"
        for packet in sent:
            if skippable and packet is not None and packet.pts is not None:
                keep = self._frame_number.get(packet.pts) in wanted
                stream.codec_context.skip_frame = "DEFAULT" if keep else "NONREF"
            for frame in stream.decode(packet):
                yield self._frame_number.get(frame.pts) if frame.pts is not None else None, frame


class DecordReader(VideoReader):
    """decord, for parity with published pipelines; one thread, because more are slower and not repeatable.

    It gives wrong frames on cut mp4, AVI or transport streams with B-frames, ends the process on some damaged files,
    and the FFmpeg 4.1 in its wheel has known holes (SECURITY.md): prefer `PyAVReader`.

    Raises:
        UsageError: decord is not installed.
    """

    def _open(self) -> VideoInfo:
        require_reader("decord")
        if is_gif(self.path):
            raise VideoError(f"{self.path}: decord cannot open animated GIFs; PyAV (data.reader pyav) can")
        import decord

        self._errors: tuple[type[Exception], ...] = (decord.DECORDError, RuntimeError, IndexError)
        with _errors_of("decord", self._errors, self.path):
            self._video: Any = decord.VideoReader(str(self.path), num_threads=1)
            if len(self._video) == 0:
                raise VideoError(f"{self.path}: no frame can be decoded")
            height, width = self._video[0].shape[:2]
            self.timing = self._timing()
            return VideoInfo(len(self._video), self.timing.fps, width, height)

    def _timing(self) -> Timing:
        """Of the times that decord has, in microseconds; a time that is none there is far from all others."""
        spans = np.array(self._video.get_frame_timestamp(range(len(self._video))), np.float64)  # (n, 2)
        begins = [None if abs(begin) > _FAR else round(begin * 1e6) for begin, _ in spans]
        last = spans[-1, 1] - spans[-1, 0]
        rate = Fraction(float(self._video.get_avg_fps()))
        return timing(begins, round(last * 1e6) if 0 < last < _FAR else None, Fraction(1, 1_000_000), rate)

    def _decode(self, wanted: set[int]) -> Iterable[tuple[int, np.ndarray]]:
        numbers = sorted(wanted)
        for first in range(0, len(numbers), _BATCH):
            chunk = numbers[first : first + _BATCH]
            with _errors_of("decord", self._errors, self.path):
                frames = self._video.get_batch(chunk).asnumpy()
            yield from zip(chunk, frames, strict=True)

    def close(self) -> None:
        # decord reads ahead without bound while it lives.
        self._video = None


class TorchCodecReader(PyAVReader):
    """torchcodec, which decodes with the FFmpeg of this machine, one thread; which frames there are is what PyAV finds.

    For mp4, mov, Matroska and WebM without VP8, where packets tell the times of frames: each frame must come with its
    own. Elsewhere torchcodec gives wrong frames (AVI) or none (transport streams), so such files are refused. Pixels
    are PyAV's where both FFmpegs convert alike, which they need not (interlaced and 10 bits); it does not say that a
    frame is damaged.

    Raises:
        UsageError: torchcodec is not installed, or finds no FFmpeg.
    """

    _ERRORS = (RuntimeError, IndexError, ValueError)

    def _open(self) -> VideoInfo:
        decoders = torchcodec().decoders
        found = scan(self.path, self.known_frames)
        if found.numbers is None or found.time_base is None:
            raise VideoError(f"{self.path}: torchcodec may give wrong frames of it; PyAV (data.reader pyav) does not")
        info = self._described(found)
        if self.orientation.mirrored:
            raise VideoError(f"{self.path}: torchcodec shows it without its mirror; PyAV (data.reader pyav) with it")
        base = float(found.time_base)
        self._begins, self._tick = np.sort(np.fromiter(found.numbers, np.float64)) * base, base
        with _errors_of("torchcodec", self._ERRORS, self.path):
            self._video: Any = decoders.VideoDecoder(
                str(self.path), stream_index=found.stream, dimension_order="NHWC", seek_mode="exact"
            )
            if len(self._video) != info.num_frames:
                raise VideoError(f"{self.path}: torchcodec counts {len(self._video)} frames, PyAV {info.num_frames}")
        return info

    def _decode(self, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
        numbers = sorted(wanted)
        for first in range(0, len(numbers), _BATCH):
            chunk = numbers[first : first + _BATCH]
            with _errors_of("torchcodec", self._ERRORS, self.path):
                frames = self._video.get_frames_at(chunk)
            late = np.abs(frames.pts_seconds.numpy() - self._begins[chunk]) > self._tick / 2
            if late.any():
                raise VideoError(f"{self.path}: torchcodec gives another frame for frame {chunk[int(late.argmax())]}")
            yield from zip(chunk, frames.data.numpy(), strict=True)

    def close(self) -> None:
        self._video = None


@contextmanager
def _errors_of(package: str, errors: tuple[type[Exception], ...], path: Path) -> Iterator[None]:
    """What a package says of a file becomes VideoError, or what the machine lacks."""
    try:
        yield
    except errors as error:
        if lacking := exhausted_by_parser(error, path):
            raise lacking from error
        raise VideoError(f"{path}: {package}: {first_line(error)}") from error


def is_gif(path: Path) -> bool:
    """Whether a file is called an animated GIF."""
    return path.suffix.lower() == ".gif"


READERS: dict[str, type[VideoReader]] = {"pyav": PyAVReader, "decord": DecordReader, "torchcodec": TorchCodecReader}
#: how the packages of readers are installed that may be absent
_INSTALLED_BY = {
    "decord": "pip install decord (Linux on x86_64)",
    "torchcodec": "pip install torchcodec, and FFmpeg (apt-get install ffmpeg)",
}


def require_reader(reader: str) -> None:
    """Checks that a reader can be used, without importing it.

    Raises:
        UsageError: no such reader, or its package is missing.
    """
    if reader not in READERS:
        raise UsageError(f"data.reader {reader!r} is unknown; choose one of {', '.join(READERS)}")
    if (remedy := _INSTALLED_BY.get(reader)) and not _is_installed(reader):
        raise UsageError(
            f"data.reader {reader}: the package {reader} is not installed; {remedy}, or use data.reader pyav"
        )


def reader_version(reader: str) -> str:
    """Version of the package that a reader decodes with; `unknown` if the package does not say.

    Raises:
        UsageError: no such reader, or its package is missing.
    """
    require_reader(reader)
    package = {"pyav": "av"}.get(reader, reader)
    # A fork may have another name.
    version = package_version(package) or str(getattr(importlib.import_module(package), "__version__", "unknown"))
    if reader == "torchcodec":  # whose wheel has no FFmpeg of its own
        return f"{version} with FFmpeg {torchcodec().ffmpeg_major_version}"
    return version


def torchcodec() -> Any:
    """The package torchcodec, whose import looks for FFmpeg.

    Raises:
        UsageError: it is not installed, or finds no FFmpeg.
    """
    require_reader("torchcodec")
    try:
        importlib.import_module("torchcodec.decoders")
        return importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(
            "data.reader torchcodec: the package cannot load the shared libraries of FFmpeg 4 to 8; install them "
            f"(apt-get install ffmpeg), or use data.reader pyav: {first_line(error)}"
        ) from error


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # blocked in sys.modules
        return False


def open_video(path: str | Path, reader: str = "pyav", known_frames: int | None = None) -> VideoReader:
    """Opens a video with the named reader; a file named as a still image is a video of one frame.

    Args:
        path: the file.
        reader: a name in `READERS`.
        known_frames: how many frames a full decode of it has given, which saves decoding it to find out.

    Raises:
        UsageError: no such reader, or its package is missing.
        VideoError: the file cannot be read as a video.
    """
    require_reader(reader)
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return ImageReader(path)
    return READERS[reader](path, known_frames)


def load_frames(
    path: str | Path,
    rule: FrameRule,
    image_size: int,
    resize: Resize,
    reader: str = "pyav",
    moment: Moment = WHOLE,
    *,
    rng: np.random.Generator | None = None,
    augment: Callable[[np.ndarray], np.ndarray] | None = None,
) -> TimedFrames:
    """Samples, decodes and resizes the frames of one clip.

    Args:
        path: the video file.
        rule: which frames are taken.
        image_size: S, the side of the square result in pixels.
        resize: how the square is made, see `resize_frames`.
        reader: a name in `READERS`.
        moment: the part of the video that is the clip.
        rng: source of randomness for random sampling.
        augment: changes the decoded frames, uint8 (n, H, W, 3), before they are resized.

    Returns:
        n frames, 1 <= n <= count, and their times within the clip.

    Raises:
        VideoError: the file cannot be read, or has no frame in the moment.
        UsageError: the sampling, `reader` or `resize` is unknown.
        ValueError: random sampling without `rng`.
    """
    with open_video(path, reader) as video:
        num_frames, fps = video.info.num_frames, video.info.fps
        try:
            indices = choose_frames(num_frames, fps, video.timing.times, rule, moment, rng)
        except DataError as error:
            raise video.refusal(error) from error
        if len(indices) == 0:
            raise VideoError(f"{path}: no frame {moment}; {num_frames} frames at {fps:g} fps")
        pixels = video.read(indices)  # (n, H, W, 3)
        times = times_of(indices, fps, video.timing.times, moment)
    if augment is not None:
        pixels = augment(pixels)
    # The permuted view keeps channels last in memory, which torchvision resizes at twice the speed.
    frames = resize_frames(torch.from_numpy(pixels).permute(0, 3, 1, 2), image_size, resize)
    return TimedFrames(frames, times)


def resize_frames(frames: torch.Tensor, image_size: int, resize: Resize) -> torch.Tensor:
    """Makes frames square with antialiased bicubic interpolation on uint8, within 2 levels of PIL.

    Widths are resized before heights, as in the Pillow that published models were trained with. Pillow 13 may
    take the other order, which moves pixels of squashed portrait videos by up to 7 levels.

    Args:
        frames: uint8 (n, 3, H, W), fastest with channels-last strides.
        image_size: S, in pixels.
        resize: `shorter_side_crop` scales the shorter side to S and crops the centre (CLIP); `squash` scales both
            sides to S (BLIP).

    Returns:
        uint8 (n, 3, S, S), contiguous.

    Raises:
        UsageError: `resize` is neither.
    """
    sizes = {"shorter_side_crop": [image_size], "squash": [image_size, image_size]}
    if resize not in sizes:
        raise UsageError(f"resize {resize!r} is unknown; choose one of {', '.join(sizes)}")
    scaled = transforms.resize(frames, sizes[resize], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return transforms.center_crop(scaled, [image_size, image_size]).contiguous()


def room_for(frames: torch.Tensor) -> Clips:
    """Clips whose frames are that tensor, with room for masks and times; nothing is written yet.

    Args:
        frames: uint8 (..., T, 3, S, S).
    """
    return Clips(
        frames, frames.new_empty(frames.shape[:-3], dtype=torch.bool), frames.new_empty(frames.shape[:-3]).float()
    )


def padded(clip: TimedFrames, count: int, room: Clips | None = None) -> Clips:
    """Pads a clip with zero frames at time 0 at the end, as CLIP4Clip does; the mask tells them from real ones.

    Args:
        clip: n frames, n <= count.
        count: frames per clip in the batch.
        room: of `count` frames, where the clip is put; where its frames lie there already, they are not copied. None
            makes room.

    Returns:
        Frames (count, 3, S, S), mask and times (count,): a clip without the dimension of clips.

    Raises:
        ValueError: there are more than `count` frames.
    """
    frames, times = clip
    real = len(frames)
    if real > count:
        raise ValueError(f"{real} frames do not fit into {count}")
    room = room or room_for(frames.new_empty((count, *frames.shape[1:])))
    if frames.data_ptr() != room.frames.data_ptr():
        room.frames[:real] = frames
    room.frames[real:] = 0
    room.mask[:real], room.mask[real:] = True, False
    room.times[:real], room.times[real:] = times, 0
    return room


def _frames(stream: VideoStream, sent: Iterable[Packet | None]) -> Iterator[av.VideoFrame]:
    """The frames of packets, in the order in which they are shown."""
    for packet in sent:
        yield from stream.decode(packet)


def _needed(
    container: InputContainer, stream: VideoStream, left: Sequence[int], entries: Entries
) -> Iterator[Packet | None]:
    """The packets to decode for frames that come in their turn; those that none of them needs are left out.

    The first one always comes, for what it tells a decoder once (x264's version, by which H.264 is decoded).

    Args:
        container: open.
        stream: of the frames.
        left: their numbers, rising; from which those are taken that the decoder has given.
        entries: where decoding may begin.
    """
    sent, place = packets(container, stream), 0
    while left:
        entry = entries.before(left[0])
        if 0 < place < entry.place:
            if entry.place - place > _WORTH_A_SEEK:
                container.seek(entry.time, stream=stream)
                sent = packets(container, stream)
            packet = next(packet for packet in sent if packet is None or entry.is_at(packet))
            stream.codec_context.flush_buffers()
            place = entry.place
        else:
            packet = next(sent)
        yield packet
        if packet is None:
            return
        place += 1


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """(H, W, 3) uint8, turned and mirrored as the display matrix says."""
    image = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()  # else one thread for each CPU
    return np.ascontiguousarray(orientation_of(frame).shown(image))
