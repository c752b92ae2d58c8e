"""Decoding begins where it gives the frames of a decode from the start, and leaves out what comes before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petl_bench.data.video as video_module
from petl_bench.data.entries import Entries, entry_test
from petl_bench.data.opening import opened, packets
from petl_bench.data.video import PyAVReader, VideoError
from tests.unit.data.test_barcode import CLIPS, FRAMES, TIMED, TIMES, number_of, write, write_timed
from tests.unit.data.test_video import CLIPS as SHORT
from tests.unit.data.test_video import cut, real_clips, write_clip

#: bar codes that can be decoded from a later packet than the first, and those that cannot
LATER = ("plain.mp4", "variable.mp4", "ten_bits.mp4", "hevc.mp4", "matroska.mkv", "vp9.webm", "av1.mkv")
FIRST = ("open_gop.mp4", "h264.avi", "mpeg4.avi", "stream.ts", "moving.gif")
#: the same of other clips
SHORT_LATER = ("h264.mp4", "interlaced.mp4", "variable_rate.mp4", "fragmented.mp4", "h264.mkv", "vp9.webm")
SHORT_FIRST = ("open_gop.mp4", "intra_refresh.mp4", "mpeg4.mp4", "vp8.webm")


@pytest.fixture(params=[0, 100], ids=["sought", "read"])
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets between are sought over, or read and left out as in clips so short that no seek is worth it."""
    monkeypatch.setattr(video_module, "_WORTH_A_SEEK", request.param)


@pytest.fixture
def from_the_start(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames were left for a decode from the start, each time that one was needed."""
    seen: list[int] = []
    given = PyAVReader._given

    def spy(self: PyAVReader, left: Any, entries: Entries | None = None) -> Iterator[Any]:
        if entries is None:
            seen.append(len(left))
        return given(self, left, entries)

    monkeypatch.setattr(PyAVReader, "_given", spy)
    return seen


def in_sequence(path: Path, numbers: Iterable[int]) -> dict[int, np.ndarray]:
    with PyAVReader(path) as video:
        video._entries = None
        return dict(video.each(list(numbers)))


def require_equal(path: Path, from_the_start: list[int], step: int = 1) -> None:
    """Frames alone and a few together are those of a decode from the start, none of which is needed."""
    with PyAVReader(path) as video:
        truth = in_sequence(path, range(0, video.info.num_frames, step))
        from_the_start.clear()
        for number, picture in truth.items():
            assert np.array_equal(video.read([number])[0], picture), (path.name, number)
        rng = np.random.default_rng(0)
        for _ in range(3):
            wanted = rng.choice(list(truth), min(6, len(truth)), replace=False)
            assert np.array_equal(video.read(wanted), np.stack([truth[number] for number in wanted])), path.name
        assert video._entries is not None, path.name
    assert from_the_start == []


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("name", LATER)
def test_pixels_of_bar_codes(name: str, tmp_path: Path, from_the_start: list[int]) -> None:
    require_equal(write(tmp_path / name, **CLIPS[name]), from_the_start)


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("name", SHORT_LATER)
def test_pixels_of_short_clips(name: str, tmp_path: Path, from_the_start: list[int]) -> None:
    require_equal(write_clip(tmp_path / name, **SHORT[name]), from_the_start)


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov", "h264.mkv", "vp9.webm"])
@pytest.mark.parametrize("start", [0, 5000])
def test_pixels_at_times_of_their_own(name: str, start: int, tmp_path: Path, from_the_start: list[int]) -> None:
    require_equal(write_timed(tmp_path / name, TIMED[name], TIMES["slowing"], start), from_the_start)


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("name", ["plain.mp4", "hevc.mp4"])
def test_pixels_of_a_copied_part(name: str, tmp_path: Path, from_the_start: list[int]) -> None:
    require_equal(cut(write(tmp_path / name, **CLIPS[name]), tmp_path / f"cut_{name}", 2.3), from_the_start)


@pytest.mark.usefixtures("_ways")
def test_pixels_of_real_clips(shared: Path, from_the_start: list[int]) -> None:
    for path in real_clips(shared):
        require_equal(path, from_the_start, step=29)


@pytest.mark.parametrize("name", FIRST)
def test_other_bar_codes_are_decoded_from_the_start(name: str, tmp_path: Path) -> None:
    with PyAVReader(write(tmp_path / name, **CLIPS[name])) as video:
        assert video._entries is None


@pytest.mark.parametrize("name", SHORT_FIRST)
def test_other_short_clips_are_decoded_from_the_start(name: str, tmp_path: Path) -> None:
    """Where key frames are no instantaneous refresh, or the decoder goes by what earlier packets told."""
    with PyAVReader(write_clip(tmp_path / name, **SHORT[name])) as video:
        assert video._entries is None


@pytest.mark.parametrize("name", LATER)
def test_packets_tell_what_the_container_says(name: str, tmp_path: Path) -> None:
    """Of encoders without open groups of pictures, and of HEVC, where these are no hindrance."""
    with opened(write(tmp_path / name, **CLIPS[name])) as (container, stream):
        test = entry_test(stream)
        assert test is not None
        sent = [packet for packet in packets(container, stream) if packet is not None]
        found = [test(memoryview(packet)) for packet in sent]
    assert found == [packet.is_keyframe for packet in sent]
    assert 2 <= sum(found) < len(found)


def test_what_no_frame_needs_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    needed = video_module._needed

    def counting(*arguments: Any) -> Iterator[Any]:
        for packet in needed(*arguments):
            sent.append(1)
            yield packet

    monkeypatch.setattr(video_module, "_needed", counting)
    with PyAVReader(write(tmp_path / "plain.mp4")) as video:
        assert video._entries is not None
        begin = video._entries.firsts[-1]
        assert begin > FRAMES - 24
        assert number_of(video.read([begin + 2])[0]) == begin + 2
        assert len(sent) <= 1 + 3 + 4  # the first, those up to the frame, and what the decoder holds back
        sent.clear()
        video.read([0, FRAMES - 1])
        assert len(sent) <= 5 + FRAMES - begin + 1


def test_a_packet_that_is_not_found_sends_back_to_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_the_start: list[int]
) -> None:
    monkeypatch.setattr(video_module, "_WORTH_A_SEEK", 0)
    with PyAVReader(write(tmp_path / "plain.mp4")) as video:
        assert video._entries is not None
        moved = [entry._replace(pos=1) if entry.place else entry for entry in video._entries.entries]
        video._entries = video._entries._replace(entries=moved)
        assert [number_of(frame) for frame in video.read([3, 50, 87])] == [3, 50, 87]
    assert from_the_start == [2]


def test_a_decoder_that_begins_in_the_wrong_place_has_not_the_last_word(
    tmp_path: Path, from_the_start: list[int]
) -> None:
    """A packet in the middle of a group is taken for an entry: no frame of its is given."""
    path = write(tmp_path / "plain.mp4")
    (truth,) = in_sequence(path, [50]).values()
    from_the_start.clear()
    with opened(path) as (container, stream):
        sent = [packet for packet in packets(container, stream) if packet is not None]
        packet = sent[52]
        assert not packet.is_keyframe
    with PyAVReader(path) as video:
        assert video._entries is not None
        wrong = video._entries.entries[1]._replace(place=52, pts=packet.pts, pos=packet.pos)
        video._entries = Entries((0, 49), (video._entries.entries[0], wrong))
        assert np.array_equal(video.read([50])[0], truth)
    assert from_the_start == [1]


def test_a_damaged_part_hides_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "plain.mp4")
    truth = in_sequence(path, [20, 60, 85])
    with opened(path) as (container, stream):
        sent = [packet for packet in packets(container, stream) if packet is not None]
    content = bytearray(path.read_bytes())
    for packet in sent[34:46]:
        assert packet.pos is not None
        content[packet.pos + 8 : packet.pos + packet.size] = b"\xff" * (packet.size - 8)
    path.write_bytes(content)
    with PyAVReader(path) as video:
        for number, picture in truth.items():
            assert np.array_equal(video.read([number])[0], picture)
        with pytest.raises(VideoError, match=r"plain\.mp4: "):
            video.read(range(FRAMES))
