"""What FFmpeg may open of a video file: kinds of containers and codecs, and no other file than the one that is named.

A file is what its content says, not its name: a playlist or a list of files that is named `clip.mp4` would make FFmpeg
read other files or addresses, and a codec that nobody uses may have a decoder with a hole (CVE-2026-8461 was one in
MagicYUV). So containers, codecs and protocols are allowed by name, before anything is probed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from petl_bench.data.images import is_picture
from petl_bench.data.reader import VideoError
from petl_bench.machine.resources import exhausted_by_parser

#: FFmpeg's names of the decoders that may be opened: what the web, phones and cameras write, in use or as datasets
#: still hold it; and what editing programs and lossless archives hold
CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp8", "libvpx", "vp9", "libvpx-vp9", "gif", "mjpeg"),
    *("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "mpeg1video", "mpeg2video", "wmv1", "wmv2", "wmv3", "vc1"),
    *("flv", "vp6f", "h263", "h263i", "h263p", "theora"),
    *("prores", "dnxhd", "dvvideo", "ffv1", "huffyuv", "ffvhuff", "png", "qtrle", "rawvideo"),
)
#: FFmpeg's names of the containers; the last four are streams without one
FORMATS = ("mov", "matroska", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "gif", "h264", "hevc", "m4v", "mpegvideo")
#: containers whose frames carry no times: those that FFmpeg gives them are made up
WITHOUT_TIMES = frozenset(FORMATS[-4:])
_ALLOWED = {
    "format_whitelist": ",".join(FORMATS),
    "codec_whitelist": ",".join(CODECS),
    "protocol_whitelist": "file",
}
#: streams that are pictures of the file, not of time
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails

#: of a video stream
Packet: TypeAlias = "av.Packet[VideoStream]"


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream; what is wrong with the file becomes VideoError.

    Args:
        path: absolute, so that it is never taken for an address.

    Raises:
        VideoError: it is no video, or not of a kind that is opened.
        ResourceError: this machine is out of what reading needs, whatever the file is.
    """
    try:
        with _container(path) as container:
            stream = _video_stream(container)
            if stream is None:
                raise VideoError(f"{path}: no video stream")
            if stream.codec_context is None:
                raise VideoError(f"{path}: no decoder for its video stream; the file is damaged or of an unknown kind")
            if stream.codec_context.name not in CODECS:
                raise VideoError(
                    f"{path}: its codec, {stream.codec_context.name}, is none of those that are opened (SECURITY.md): "
                    "re-encode it, e.g. ffmpeg -i FILE -c:v libx264 FILE.mp4"
                )
            stream.codec_context.thread_count = 1
            yield container, stream
    except (FFmpegError, OSError, ValueError) as error:
        raise exhausted_by_parser(error, path) or VideoError(f"{path}: {first_line(error)}") from error


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet | None]:
    """What is to be decoded, in the order of the file; None at the end, for what the decoder still holds.

    An empty packet stands for a dropped frame and is left out: the decoder would take it for the end.
    """
    yield from (packet for packet in container.demux(stream) if packet.size)
    yield None


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]


def kind_of(container: InputContainer) -> set[str]:
    """FFmpeg's names of a container."""
    return set(container.format.name.split(","))


def _container(path: Path) -> InputContainer:
    try:
        return av.open(str(path), metadata_errors="ignore", container_options=_ALLOWED)
    except ArgumentError as error:  # how FFmpeg says that a container is not on its list
        if is_picture(path):
            raise VideoError(f"{path}: a still image, not a video") from error
        raise VideoError(
            f"{path}: its container is none of those that are opened ({', '.join(FORMATS)}), or is damaged"
        ) from error


def _video_stream(container: InputContainer) -> VideoStream | None:
    """FFmpeg's choice, unless that is a cover: then the stream of most frames."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _COVERS]
    streams = [stream for stream in streams if stream.frames != 1] or streams
    best = container.streams.best("video")
    chosen = [stream for stream in streams if best is not None and stream.index == best.index]
    return max(chosen or streams, key=lambda stream: (stream.frames, -stream.index), default=None)
