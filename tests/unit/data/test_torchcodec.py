"""The reader torchcodec: what it refuses, and what it says where it is there in part; its frames: `test_barcode`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from petl_bench.data import video
from petl_bench.data.reader import VideoError
from petl_bench.data.verify import disagreements
from petl_bench.data.video import TorchCodecReader, open_video, reader_version, torchcodec
from petl_bench.errors import UsageError
from tests.unit.data.test_video import real_clips, write_clip

needs_torchcodec = pytest.mark.needs_torchcodec


def test_libraries_that_are_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(video, "_is_installed", lambda package: True)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(
        UsageError, match=r"cannot load the shared libraries of FFmpeg .*apt-get install ffmpeg"
    ) as told:
        open_video(path, "torchcodec")
    assert "\n" not in str(told.value)


@needs_torchcodec
def test_the_version_tells_whose_ffmpeg_decodes() -> None:
    """So that a cache of frames that another FFmpeg has decoded is not taken for this one's."""
    assert reader_version("torchcodec").endswith(f" with FFmpeg {torchcodec().ffmpeg_major_version}")


@needs_torchcodec
def test_frames_at_other_times_are_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", variable_rate=True)
    with TorchCodecReader(path) as reader:
        assert len(reader.read([0, 7, 39])) == 3
        reader._begins[7] += 2 * reader._tick
        with pytest.raises(VideoError, match="torchcodec gives another frame for frame 7"):
            reader.read([0, 7, 39])


@needs_torchcodec
def test_another_number_of_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(torchcodec().decoders.VideoDecoder, "__len__", lambda self: 39)
    with pytest.raises(VideoError, match="torchcodec counts 39 frames, PyAV 40"):
        open_video(path, "torchcodec")


@needs_torchcodec
def test_a_mirrored_video_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(video, "orientation_of", lambda frame: video.Orientation(0, True))
    with pytest.raises(VideoError, match="torchcodec shows it without its mirror"):
        open_video(path, "torchcodec")


@needs_torchcodec
def test_what_is_no_video_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist, which would make the machine's FFmpeg read other files."""
    monkeypatch.setattr(torchcodec().decoders, "VideoDecoder", None)
    path = tmp_path / "clip.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=r"clip\.mp4: (?!torchcodec)"):
        open_video(path, "torchcodec")


@needs_torchcodec
def test_real_clips_agree(shared: Path) -> None:
    for path in real_clips(shared)[::4]:
        assert disagreements(path, "torchcodec") == []
        with open_video(path) as ours, open_video(path, "torchcodec") as theirs:
            assert ours.timing.fps == theirs.timing.fps
            assert np.array_equal(ours.read([3, 40]), theirs.read([3, 40]))
