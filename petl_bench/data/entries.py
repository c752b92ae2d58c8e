"""Packets at which decoding can begin: the frames from there on are those of a decode from the start, to the last bit.

A container's mark of key frames is not enough, for it also stands where a decoder has yet to recover (H.264 with open
groups of pictures or a rolling refresh). So the packet itself is looked at, and codecs are left out whose decoders go
by what earlier packets told (MPEG-4 part 2: the name of the encoder chooses the inverse transform).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from av.video.stream import VideoStream

from petl_bench.data.opening import Packet

#: whether a packet that is marked as a key frame begins anew
Test = Callable[[memoryview], bool]


class Entry(NamedTuple):
    """A packet that decoding can begin at.

    Attributes:
        place: how many packets come before, empty ones not counted.
        pts: when it is shown; earlier frames may lack what they were predicted from.
        dts: when it is decoded.
        pos: where it lies in the file, in bytes.
    """

    place: int
    pts: int
    dts: int | None
    pos: int | None

    @property
    def time(self) -> int:
        """What to seek."""
        return self.pts if self.dts is None else self.dts

    def is_at(self, packet: Packet) -> bool:
        """Whether a packet of the same file is this one: by time and place, in case a seek has moved the times."""
        return (packet.pts, packet.pos) == (self.pts, self.pos)


class Entries(NamedTuple):
    """Where decoding can begin, in the order of the file.

    Attributes:
        firsts: frame numbers, rising; from each entry, frames of its number and later ones can be decoded.
        entries: as many.
    """

    firsts: Sequence[int]
    entries: Sequence[Entry]

    @classmethod
    def of(cls, entries: Sequence[Entry], numbers: Mapping[int, int]) -> Entries | None:
        """The entries of a stream; None if there are none but the first packet.

        Args:
            entries: in the order of the file.
            numbers: frame numbers by pts.
        """
        found = {0: Entry(0, 0, None, None)}
        for entry in entries:
            if (number := numbers[entry.pts]) > next(reversed(found)):
                found[number] = entry
        return cls(tuple(found), tuple(found.values())) if len(found) > 1 else None

    def before(self, number: int) -> Entry:
        """The last entry from which a frame can be decoded."""
        return self.entries[bisect_right(self.firsts, number) - 1]


def entry_test(stream: VideoStream) -> Test | None:
    """How packets of a stream are looked at; None where decoding begins at the first one only."""
    name, header = stream.codec_context.name, stream.codec_context.extradata or b""
    if name == "h264" and header[:1] == b"\1" and len(header) > 4:  # of ISO/IEC 14496-15, with lengths before units
        return lambda packet: _first_picture(packet, (header[4] & 3) + 1, _h264_picture) == _H264_IDR
    if name == "hevc" and header[:1] == b"\1" and len(header) > 21:
        return lambda packet: _first_picture(packet, (header[21] & 3) + 1, _hevc_picture) in _HEVC_ENTRIES
    return {"vp9": _vp9, "libdav1d": _av1, "av1": _av1}.get(name)


#: types of units: instantaneous refresh, before which nothing is looked back to (ISO/IEC 14496-10, table 7-1)
_H264_IDR = 5
#: random access points, whose later pictures in order of display look back no further (ISO/IEC 23008-2, table 7-1)
_HEVC_ENTRIES = range(16, 22)


def _first_picture(packet: memoryview, size: int, picture: Callable[[int], int | None]) -> int | None:
    """The type of the first unit that holds a part of a picture; None if there is none.

    Args:
        packet: units, each after its length.
        size: bytes of a length.
        picture: the type of a unit from its first byte; None of other units.
    """
    place = 0
    while place + size < len(packet):
        if (found := picture(packet[place + size])) is not None:
            return found
        place += size + int.from_bytes(packet[place : place + size], "big")
    return None


def _h264_picture(byte: int) -> int | None:
    kind = byte & 0x1F
    return kind if 1 <= kind <= 5 else None


def _hevc_picture(byte: int) -> int | None:
    kind = byte >> 1 & 0x3F
    return kind if kind < 32 else None


def _vp9(packet: memoryview) -> bool:
    """Whether the first frame is a key frame: neither `show_existing_frame` nor `frame_type` is set."""
    reserved = packet[0] >> 4 & 3 == 3  # profile 3 has a bit more
    return not packet[0] & (6 if reserved else 12)


def _av1(packet: memoryview) -> bool:
    """Whether a sequence header comes, and a key frame that is shown (AV1 specification, 7.6.2)."""
    place, has_header = 0, False
    while place + 1 < len(packet):
        kind, extended, sized = packet[place] >> 3 & 15, packet[place] & 4, packet[place] & 2
        place += 2 if extended else 1
        if not sized:
            size = len(packet) - place
        else:
            size, place = _leb128(packet, place)
        if kind in (_AV1_FRAME_HEADER, _AV1_FRAME):
            # show_existing_frame 0, frame_type 0 (two bits), show_frame 1
            return has_header and place < len(packet) and packet[place] >> 4 == 1
        has_header |= kind == _AV1_SEQUENCE_HEADER
        place += size
    return False


_AV1_SEQUENCE_HEADER, _AV1_FRAME_HEADER, _AV1_FRAME = 1, 3, 6


def _leb128(packet: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place after it."""
    value = 0
    for group in range(8):
        if place >= len(packet):
            break
        byte = packet[place]
        place, value = place + 1, value | (byte & 0x7F) << 7 * group
        if not byte & 0x80:
            break
    return value, place
