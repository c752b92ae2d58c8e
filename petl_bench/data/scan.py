"""One pass over a video stream: how many frames there are, when each is shown, and what the first one looks like."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from petl_bench.data.entries import Entries, Entry, entry_test
from petl_bench.data.opening import WITHOUT_TIMES, Packet, kind_of, opened, packets
from petl_bench.data.reader import VideoError
from petl_bench.data.timing import Timing, constant, evenly_continued, timing

#: frames per second below which most frames being hidden tells of a damaged time scale
_SLOWEST = Fraction(1, 60)


class Scan(NamedTuple):
    """What a stream holds.

    Attributes:
        num_frames: that a full decode gives.
        timing: when they are shown.
        first: the first of them.
        header_rate: frames per second as the header says; None if it does not.
        numbers: frame numbers by the time (pts) that packet and frame carry; None where only decoding numbers frames.
        entries: where decoding can begin; None for the first packet only.
        stream: number of the stream in the file.
        time_base: seconds in a unit of pts.
    """

    num_frames: int
    timing: Timing
    first: av.VideoFrame
    header_rate: Fraction | None
    numbers: dict[int, int] | None = None
    entries: Entries | None = None
    stream: int = 0
    time_base: Fraction | None = None


class _Stamp(NamedTuple):
    """The times of a packet or frame, in units of the stream's time base; None where it carries none."""

    pts: int | None
    dts: int | None
    duration: int | None

    @classmethod
    def of(cls, item: Packet | av.VideoFrame) -> _Stamp:
        return cls(item.pts, item.dts, item.duration)


def scan(path: Path, known_frames: int | None = None) -> Scan:
    """Scans a video file: packets are counted where that counts frames, elsewhere everything is decoded.

    Args:
        path: the file.
        known_frames: how many frames a full decode of it has given; where as many packets carry times, it is believed.

    Raises:
        VideoError: it is no video, of no kind that is opened, cut short, or damaged.
    """
    with opened(path) as (container, stream):
        _require_complete(path, container, stream)
        counted = _packets_are_frames(container, stream)
        if not counted and known_frames is None:
            return _by_frames(path, container, stream)
        if found := _by_packets(path, container, stream, None if counted else known_frames):
            return found
    with opened(path) as (container, stream):
        return _by_frames(path, container, stream)


def _by_packets(path: Path, container: InputContainer, stream: VideoStream, known_frames: int | None) -> Scan | None:
    """None if packets do not tell the times of frames, or are not as many as is known."""
    first: av.VideoFrame | None = None
    stamps: list[_Stamp] = []
    entries: list[Entry] = []
    test, hidden = entry_test(stream), 0
    for place, packet in enumerate(packets(container, stream)):
        if first is None:
            first = next(iter(stream.decode(packet)), None)
        if packet is None:
            break
        if packet.has_sidedata("new_extradata"):  # of which a decoder that begins later would not know
            test = None
        if packet.is_discard:  # hidden by the edit list
            hidden += 1
            continue
        stamps.append(_Stamp.of(packet))
        if test and packet.is_keyframe and packet.pts is not None and test(memoryview(packet)):
            entries.append(Entry(place, packet.pts, packet.dts, packet.pos))
    if first is None:
        raise VideoError(f"{path}: no frame can be decoded")
    if known_frames is not None:
        found = _timing_of_as_many(container, stream, stamps) if len(stamps) == known_frames else None
        return found and Scan(known_frames, found, first, _rate(stream))
    shown = {stamp.pts: stamp for stamp in stamps if stamp.pts is not None}
    if len(shown) < len(stamps):
        return None
    if not shown:  # all are hidden
        return None
    begins = sorted(shown)
    found = timing(begins, shown[begins[-1]].duration, stream.time_base, _rate(stream))
    if hidden > len(begins) and 0 < found.fps < _SLOWEST:
        raise VideoError(
            f"{path}: {hidden} of {hidden + len(begins)} frames are hidden and the others are shown for "
            f"{1 / found.fps:.0f} seconds each; its times are damaged"
        )
    numbers = {pts: number for number, pts in enumerate(begins)}
    places = Entries.of(entries, numbers)
    return Scan(len(begins), found, first, _rate(stream), numbers, places, stream.index, stream.time_base)


def _timing_of_as_many(container: InputContainer, stream: VideoStream, sent: Sequence[_Stamp]) -> Timing | None:
    """The timing of as many frames as packets were sent, if their times tell it without decoding."""
    kind, base, rate = kind_of(container), stream.time_base, _rate(stream)
    slots = [stamp.dts for stamp in sent if stamp.dts is not None]
    shown = {stamp.pts: stamp for stamp in sent if stamp.pts is not None}
    if not base or kind & WITHOUT_TIMES or len(slots) < len(sent) or slots != sorted(slots):
        return None
    if "avi" in kind:
        return constant(slots, base, rate)
    if len(shown) < len(sent):
        return None
    found = timing(sorted(shown), shown[max(shown)].duration, base, rate, _is_broadcast(kind))
    return None if found.problem else found


def _by_frames(path: Path, container: InputContainer, stream: VideoStream) -> Scan:
    first: av.VideoFrame | None = None
    sent: list[_Stamp] = []
    frames: list[_Stamp] = []
    late = 0
    for packet in packets(container, stream):
        given = stream.decode(packet)
        first = first or next(iter(given), None)
        frames += map(_Stamp.of, given)
        if packet is None:
            late = len(given)
        else:
            sent.append(_Stamp.of(packet))
    if first is None:
        raise VideoError(f"{path}: no frame can be decoded")
    return Scan(len(frames), _decoded_timing(container, stream, sent, frames, late), first, _rate(stream))


def _decoded_timing(
    container: InputContainer, stream: VideoStream, sent: Sequence[_Stamp], frames: Sequence[_Stamp], late: int
) -> Timing:
    """The timing of decoded frames: of their own times, as far as the container has them.

    Args:
        container: open.
        stream: of the frames.
        sent: packets in the order of the file.
        frames: in the order in which they are shown.
        late: how many frames came after the last packet.
    """
    kind, base, rate = kind_of(container), stream.time_base, _rate(stream)
    if kind & WITHOUT_TIMES:
        return Timing(0.0, problem="a stream without a container has no times")
    # pts are the frames' own; the decoder's dts are when it gave them, which a container without pts goes by.
    candidates: list[Sequence[int | None]] = [
        [frame.pts for frame in frames],
        evenly_continued([frame.dts for frame in frames if frame.dts is not None], late),
    ]
    if "avi" in kind:
        # Each packet has a slot of equal length, in the order of decoding, and some slots are empty. pts are made up.
        slots = sorted(stamp.dts for stamp in sent if stamp.dts is not None)
        if base and len(slots) == len(frames) and (even := constant(slots, base, rate)):
            return even
        candidates.insert(0, evenly_continued(slots[late:], late))
    cuts = _is_broadcast(kind)
    found = [
        timing(begins, frames[-1].duration, base, rate, cuts) for begins in candidates if len(begins) == len(frames)
    ]
    return next((one for one in found if not one.problem), found[0])


def _rate(stream: VideoStream) -> Fraction | None:
    return stream.average_rate or stream.guessed_rate


def _is_broadcast(kind: set[str]) -> bool:
    """Whether a container's clock is that of what was recorded, and jumps where recordings are joined."""
    return not kind.isdisjoint({"mpegts", "mpeg"})


def _packets_are_frames(container: InputContainer, stream: VideoStream) -> bool:
    """Whether counting packets counts frames: AVI has empty and packed ones, VP8 hidden frames."""
    return not kind_of(container).isdisjoint({"mp4", "matroska"}) and stream.codec_context.name not in ("vp8", "libvpx")


def _require_complete(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """Refuses a file that ends before its samples do.

    The sample table is compared with the file size rather than the frame counts, since an edit list that
    hides the end of a video makes the counts differ in a file that is intact.
    """
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise VideoError(f"{path}: truncated, {container.size} of at least {end} bytes are there")
