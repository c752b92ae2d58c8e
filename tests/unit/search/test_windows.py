"""Windows of videos, read in one pass: the frames that reading each of them alone gives."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream

from petl_bench.data.datasets import ClipLoader
from petl_bench.data.reader import VideoError
from petl_bench.data.samples import Sample
from petl_bench.data.sampling import SAMPLERS, is_random
from petl_bench.inputs import WHOLE, FrameRule, Moment, Sampling
from petl_bench.search import windows as module
from petl_bench.search.windows import windows


def write_clip(path: Path, codec: str = "libx264") -> None:
    """Seven seconds, every frame different."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(70):
            image = np.full((32, 48, 3), 3 * number, np.uint8)
            image[:16, : number // 2 + 4] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("rate", [None, 1, 3])
@pytest.mark.parametrize("sampling", SAMPLERS)
def test_frames_of_a_window_are_those_of_the_moment(sampling: Sampling, rate: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_clip(path)
    loader = ClipLoader(FrameRule(4, sampling, rate), 24, "shorter_side_crop", "pyav")
    found = list(windows(path, loader, 2))
    assert [(window.start, window.end) for window in found] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    for place, window in enumerate(found):
        moment = Moment(int(window.start), int(window.start) + 2)
        rng = np.random.default_rng(place) if is_random(sampling) else None
        expected = loader.load(path, Sample("a", (), moment), rng)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(window.clip, expected, strict=True))


def test_a_file_that_is_one_window(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_clip(path)
    loader = ClipLoader(FrameRule(4, "uniform", None), 24, "squash", "pyav")
    expected = loader.load(path, Sample("a", (), WHOLE))
    for seconds in (None, 7, 600):
        (window,) = windows(path, loader, seconds)
        assert (window.start, window.end) == (0, 7)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(window.clip, expected, strict=True))


def test_what_comes_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_clip(path, "mpeg4")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    loader = ClipLoader(FrameRule(4, "uniform", None), 24, "squash", "pyav")
    with pytest.raises(VideoError):
        list(windows(path, loader, 2))
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"no\.mp4"):
        list(windows(tmp_path / "no.mp4", loader, None))


def test_a_file_of_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of a damaged file may lie years apart."""
    path = tmp_path / "a.mp4"
    write_clip(path)
    monkeypatch.setattr(module, "_MOST", 6)
    loader = ClipLoader(FrameRule(4, "uniform", None), 24, "squash", "pyav")
    assert len(list(windows(path, loader, 2))) == 4
    with pytest.raises(VideoError, match=r"more than 6 windows of 1 s"):
        list(windows(path, loader, 1))
