"""FFmpeg opens no other kinds of files than those that are listed, and no other file than the one that is named."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from av.video.stream import VideoStream

from petl_bench.data.opening import CODECS
from petl_bench.data.video import VideoError, open_video
from tests.unit.data.test_video import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.ts")


def write_lossless(path: Path, codec: str, pixels: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 * number, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [
        ("magicyuv", "gbrp", "avi"),
        ("magicyuv", "yuv420p", "avi"),
        ("cinepak", "rgb24", "mov"),
        ("snow", "yuv420p", "avi"),
    ],
)
def test_other_codecs_are_refused_by_name_and_not_probed(codec: str, pixels: str, suffix: str, tmp_path: Path) -> None:
    path = write_lossless(tmp_path / f"clip.{suffix}", codec, pixels)
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with (
            av.logging.Capture() as said,
            pytest.raises(VideoError, match=rf"clip\.{suffix}: its codec, {codec}, is none"),
        ):
            open_video(path)
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    # What FFmpeg would decode to find out size and colours it does not open either.
    assert any(f"Codec ({codec}) not on whitelist" in text for _, _, text in said)


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [
        *(
            ("ffv1", "gray16le", "mkv"),
            ("ffv1", "bgra", "avi"),
            ("png", "rgb24", "mov"),
            ("rawvideo", "yuv420p", "avi"),
        ),
        *(("prores_ks", "yuva444p10le", "mov"), ("huffyuv", "yuv422p", "avi"), ("qtrle", "argb", "mov")),
        *(("libx264", "yuv444p", "mp4"), ("libx264rgb", "rgb24", "mkv"), ("mjpeg", "yuvj420p", "avi")),
    ],
)
def test_what_editing_programs_write_is_read(codec: str, pixels: str, suffix: str, tmp_path: Path) -> None:
    with open_video(write_lossless(tmp_path / f"clip.{suffix}", codec, pixels)) as video:
        levels = video.read([0, 1, 2]).mean(axis=(1, 2, 3))
    assert np.abs(levels - [0, 80, 160]).max() < 3


def test_every_listed_decoder_is_one() -> None:
    known = {"libaom-av1", "libvpx", "libvpx-vp9", "libdav1d"}  # other builds of FFmpeg have other ones of these
    assert set(CODECS) - known <= set(av.codecs_available)


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """An address, and what is asked for there."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "mkv", "ts"])
@pytest.mark.parametrize("kind", ["playlist", "list", "session", "dash", "imf"])
def test_a_list_of_other_files_is_not_followed(
    kind: str, suffix: str, clip: Path, tmp_path: Path, requests: tuple[str, list[str]]
) -> None:
    address, asked = requests
    contents = {
        "playlist": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{}\n#EXT-X-ENDLIST\n",
        "list": "ffconcat version 1.0\nfile {}\n",
        "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=x:{}\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<BaseURL>{}</BaseURL><AdaptationSet mimeType="video/mp4"><Representation id="0" bandwidth="9"/>'
        "</AdaptationSet></Period></MPD>",
        "imf": '<?xml version="1.0"?><CompositionPlaylist><Id>{}</Id></CompositionPlaylist>',
    }
    for target in (str(clip), clip.name, f"file://{clip}", f"{address}/a.ts", f"concat:{clip}", "/etc/passwd"):
        path = tmp_path / f"clip.{suffix}"
        path.write_text(contents[kind].format(target), encoding="utf-8")
        with pytest.raises(VideoError, match=rf"clip\.{suffix}: "):
            open_video(path)
    assert not asked


def test_ffmpeg_itself_would_follow_it(clip: Path, tmp_path: Path) -> None:
    (tmp_path / clip.name).write_bytes(clip.read_bytes())
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {clip.name}\n", encoding="utf-8")
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 40
    with pytest.raises(VideoError, match=r"list\.mp4: its container is none of those that are opened"):
        open_video(path)


def test_the_name_is_never_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: tuple[str, list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:", "concat:a|b", "data:x.mp4", "pipe:0"):
        with pytest.raises(VideoError, match="No such file"):
            open_video(name)
    assert not requests[1]
