"""Readers give the frames of a sequential decode, or VideoError."""

import importlib.metadata
import os
import pickle
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream
from PIL import Image
from torchvision.transforms import CenterCrop
from torchvision.transforms import Resize as PILResize

from petl_bench.data.video import (
    PyAVReader,
    TimedFrames,
    VideoError,
    VideoInfo,
    load_frames,
    open_video,
    padded,
    reader_version,
    resize_frames,
    times_of,
)
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import WHOLE, FrameRule, Moment, Resize, Sampling
from tests.readers import EVERY_READER

ROOT = Path(__file__).parents[3]
NUM_FRAMES, WIDTH, HEIGHT = 40, 96, 64


def write_clip(
    path: Path,
    codec: str = "libx264",
    options: dict[str, object] | None = None,
    rotation: int = 0,
    variable_rate: bool = False,
    flags: str = "faststart",
) -> Path:
    """A clip with B-frames and several keyframes, every frame different."""
    with av.open(str(path), "w", options={"movflags": flags}) as container:
        stream = container.add_stream(codec, rate=20)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        stream.codec_context.thread_count = 1
        stream.options = options or {}
        if rotation:
            stream.set_display_rotation(rotation)
        if variable_rate:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(NUM_FRAMES):
            image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
            image[: HEIGHT // 2, : 2 * number + 4] = (250, 5 * number, 60)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            if variable_rate:
                frame.pts, frame.time_base = number * 40 + (number * 37) % 39, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(source: Path, path: Path, second: float) -> Path:
    """Copies from the keyframe before `second`, hiding the frames between by an edit list."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        assert stream.time_base is not None
        offset = int(second / stream.time_base)
        old.seek(offset, stream=stream)
        for packet in old.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
            new.mux(packet)
    return path


def decode_all(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


CLIPS = {
    "h264.mp4": {},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1"}},
    "interlaced.mp4": {"options": {"x264-params": "tff=1"}},
    "variable_rate.mp4": {"variable_rate": True},
    "fragmented.mp4": {"flags": "frag_keyframe+empty_moov"},
    "h264.mkv": {},
    "h264.avi": {},
    "h264.ts": {},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "16", "cpu-used": "8"}},
}


@pytest.mark.parametrize("name", CLIPS)
def test_pyav_frames_are_those_of_sequential_decode(name: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, **CLIPS[name])
    truth = decode_all(path)
    with open_video(path) as video:
        assert video.info.num_frames == len(truth) == NUM_FRAMES
        assert np.array_equal(video.read(range(NUM_FRAMES)), truth)
        # Single frames too: unwanted ones before them are skipped where that is safe.
        for number in (0, 1, 2, 13, 14, 15, 25, NUM_FRAMES - 1):
            assert np.array_equal(video.read([number])[0], truth[number])


@pytest.mark.parametrize("options", [{}, {"x264-params": "open-gop=1"}], ids=["closed", "open"])
def test_pyav_does_not_count_frames_hidden_by_an_edit_list(options: dict[str, object], tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "whole.mp4", options=options), tmp_path / "cut.mp4", second=0.95)
    truth = decode_all(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > len(truth)  # there are hidden ones
    with open_video(path) as video:
        assert video.info.num_frames == len(truth)
        assert np.array_equal(video.read(range(len(truth))), truth)


@pytest.mark.parametrize("reader", EVERY_READER)
def test_frames_in_the_order_asked_for(reader: str, clip: Path) -> None:
    truth = decode_all(clip)
    with open_video(clip, reader) as video:
        assert video.info == VideoInfo(NUM_FRAMES, 20.0, WIDTH, HEIGHT)
        frames = video.read(np.array([30, 3, 3, 17]))
        assert frames.dtype == np.uint8
        assert np.array_equal(frames, truth[[30, 3, 3, 17]])
        assert video.read([]).shape == (0, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("reader", EVERY_READER)
@pytest.mark.parametrize("index", [-1, NUM_FRAMES])
def test_frame_numbers_outside_the_video(reader: str, index: int, clip: Path) -> None:
    with open_video(clip, reader) as video, pytest.raises(IndexError, match=str(index)):
        video.read([0, index])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_display_rotation_is_applied(rotation: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "rotated.mp4", rotation=rotation)
    stored = decode_all(path)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == rotation  # counterclockwise
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == ((WIDTH, HEIGHT) if rotation == 180 else (HEIGHT, WIDTH))
        assert np.array_equal(video.read([7])[0], np.rot90(stored[7], rotation // 90))


@pytest.mark.parametrize("reader", EVERY_READER[1:])
def test_both_readers_turn_a_rotated_video_alike(reader: str, shared: Path) -> None:
    for path in sorted((shared / "data/odd_videos/decord").glob("video_*.mov")):
        with open_video(path) as ours, open_video(path, reader) as other:
            assert ours.info[2:] == other.info[2:], path.name
            assert np.abs(ours.read([1]).astype(int) - other.read([1])).mean() < 3, path.name


def make_bad_files(folder: Path, clip: Path) -> dict[str, Path]:
    content = clip.read_bytes()
    files = {
        "zero_bytes": b"",
        "text": b"this is no video\n" * 50,
        "html": b"<html><body>404 Not Found</body></html>",
        "zeros": bytes(5000),
        "truncated_1": content[: len(content) // 100],
        "truncated_50": content[: len(content) // 2],
        "truncated_99": content[: len(content) * 99 // 100],
        "damaged": content[: len(content) * 2 // 3] + bytes(len(content) // 3),
    }
    paths = {name: folder / f"{name}.mp4" for name in [*files, "image", "audio", "missing", "folder", "fifo", "loop"]}
    for name, data in files.items():
        paths[name].write_bytes(data)
    Image.new("RGB", (64, 64)).save(paths["image"], format="jpeg")
    with av.open(str(paths["audio"]), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    paths["folder"].mkdir()
    os.mkfifo(paths["fifo"])
    paths["loop"].symlink_to(paths["loop"])
    return paths


@pytest.mark.parametrize("reader", EVERY_READER)
def test_unreadable_files_raise_video_error(reader: str, tmp_path: Path, clip: Path) -> None:
    for name, path in make_bad_files(tmp_path, clip).items():
        if reader == "decord" and name in ("truncated_50", "truncated_99", "image"):
            continue  # decord gives the frames that are left, and takes a picture for a video
        with pytest.raises(VideoError, match=f"{name}.mp4: ") as caught, open_video(path, reader) as video:
            video.read(range(video.info.num_frames))
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, DataError)


def test_causes_are_named(tmp_path: Path, clip: Path) -> None:
    paths = make_bad_files(tmp_path, clip)
    causes = {
        "zero_bytes": "empty",
        "truncated_50": "truncated",
        "image": "still image",
        "audio": "no video stream",
        "missing": "No such file",
        "folder": "not a regular file",
        "fifo": "not a regular file",
    }
    for name, cause in causes.items():
        with pytest.raises(VideoError, match=cause):
            open_video(paths[name])


def test_a_frame_that_the_stream_does_not_give(clip: Path) -> None:
    with PyAVReader(clip) as video:
        video.info = video.info._replace(num_frames=NUM_FRAMES + 1)
        with pytest.raises(VideoError, match=f"frame {NUM_FRAMES} of {NUM_FRAMES + 1} is missing"):
            video.read([3, NUM_FRAMES])


def test_video_error_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a.mp4: truncated")))
    assert type(error) is VideoError
    assert str(error) == "a.mp4: truncated"


def test_unknown_reader(clip: Path) -> None:
    with pytest.raises(UsageError, match="'opencv' is unknown; choose one of pyav, decord, torchcodec"):
        open_video(clip, "opencv")


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_a_package_that_is_absent(reader: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, reader, None)
    with pytest.raises(UsageError, match=f"the package {reader} is not installed; pip install {reader}.*reader pyav"):
        open_video(clip, reader)


def test_the_version_of_a_reader() -> None:
    assert reader_version("pyav") == av.__version__


def test_the_version_of_a_fork_is_what_its_module_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert reader_version("pyav") == av.__version__


def test_nothing_is_opened_with_decord_unless_asked_for(clip: Path, tmp_path: Path) -> None:
    """In a process whose decord leaves a mark when it is imported."""
    (tmp_path / "decord.py").write_text("open('mark', 'w')\n")
    code = (
        "import sys\n"
        "from petl_bench.data import base, verify\n"
        "from petl_bench.data.video import load_frames, require_reader\n"
        "from petl_bench.inputs import FrameRule\n"
        "require_reader('decord')\n"
        "assert len(load_frames(sys.argv[1], FrameRule(4, 'uniform', 1), 32, 'squash').times) == 2\n"
        "task = verify.Task('a', verify.Path(sys.argv[1]), verify.Path(sys.argv[1]).parent)\n"
        "assert verify.inspect_file(task).status == 'ok'\n"
        "assert 'decord' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(clip)],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert not (tmp_path / "mark").exists()


def load(
    path: Path,
    count: int = 4,
    sampling: Sampling = "uniform",
    rate: int | None = None,
    resize: Resize = "squash",
    moment: Moment = WHOLE,
) -> TimedFrames:
    return load_frames(path, FrameRule(count, sampling, rate), 32, resize, moment=moment)


def test_load_frames_selects_then_resizes(clip: Path) -> None:
    frames, times = load(clip)
    truth = torch.from_numpy(decode_all(clip)[[0, 13, 26, 39]]).permute(0, 3, 1, 2)
    assert times.tolist() == pytest.approx([0, 13 / 20, 26 / 20, 39 / 20])
    assert torch.equal(frames, resize_frames(truth, 32, "squash"))
    assert (frames.dtype, tuple(frames.shape)) == (torch.uint8, (4, 3, 32, 32))


def test_load_frames_gives_fewer_when_there_are_fewer(clip: Path) -> None:
    frames, times = load(clip, count=12, rate=1)
    assert len(frames) == 2
    assert times.tolist() == [0, 1]


def test_load_frames_within_a_moment(clip: Path) -> None:
    frames, _ = load(clip, moment=Moment(1, 2), sampling="head")
    assert torch.equal(frames[0], load(clip, count=NUM_FRAMES)[0][20])
    with pytest.raises(VideoError, match=r"clip\.mp4: no frame from second 5 to 9"):
        load(clip, moment=Moment(5, 9))


def test_more_moments_than_frames_repeat_what_is_shown(clip: Path) -> None:
    frames, times = load(clip, rate=40, sampling="head", count=5)  # of 20 frames per second
    assert len(times) == 5
    truth = load(clip, sampling="head", count=3)[0]
    assert torch.equal(frames, truth[[0, 0, 1, 1, 2]])


def test_load_frames_names_the_file_whose_frames_carry_no_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "raw.h264")
    assert len(load(path).frames) == 4
    with pytest.raises(VideoError, match=r"raw\.h264: a stream without a container .*--data.init_args.frame_rate null"):
        load(path, rate=1)


def test_unknown_resize(clip: Path) -> None:
    with pytest.raises(UsageError, match="'stretch' is unknown"):
        load(clip, resize="stretch")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(("height", "width"), [(48, 71), (71, 48), (20, 33), (128, 64), (32, 32)])
@pytest.mark.parametrize("resize", ["shorter_side_crop", "squash"])
def test_resize_is_close_to_pil_for_every_shape(height: int, width: int, resize: Resize) -> None:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    assert difference_from_pil(image[None], resize, size=32).max() <= 2


def difference_from_pil(images: np.ndarray, resize: Resize, size: int) -> np.ndarray:
    """Levels between `resize_frames` and the CLIP (or BLIP) transforms on PIL images."""
    target = size if resize == "shorter_side_crop" else (size, size)

    def reference(image: Image.Image) -> np.ndarray:
        width, height = PILResize(target)(image).size
        # Two calls, since Pillow 13 may resize rows first where earlier ones start with columns.
        columns = image.resize((width, image.height), Image.Resampling.BICUBIC)
        return np.asarray(CenterCrop(size)(columns.resize((width, height), Image.Resampling.BICUBIC)))

    actual = resize_frames(torch.from_numpy(images).permute(0, 3, 1, 2), size, resize)
    assert actual.is_contiguous()
    expected = np.stack([reference(Image.fromarray(image)) for image in images])
    return np.abs(actual.permute(0, 2, 3, 1).numpy().astype(int) - expected)


def test_padding() -> None:
    found = TimedFrames(torch.randint(1, 256, (3, 3, 8, 8), dtype=torch.uint8), torch.tensor([0.5, 1.5, 2.5]))
    frames, mask, times = padded(found, 5)
    assert (frames.dtype, tuple(frames.shape)) == (torch.uint8, (5, 3, 8, 8))
    assert torch.equal(frames[:3], found.frames)
    assert not frames[3:].any()
    assert mask.tolist() == [True, True, True, False, False]
    assert times.tolist() == [0.5, 1.5, 2.5, 0.0, 0.0]
    assert padded(found, 3).mask.all()
    with pytest.raises(ValueError, match="do not fit"):
        padded(found, 2)


def test_times_are_those_of_the_frames_within_the_moment() -> None:
    numbers = np.array([0, 3, 5])
    assert times_of(numbers, 2.0, None).tolist() == [0.0, 1.5, 2.5]
    assert times_of(numbers, 2.0, None, Moment(1)).tolist() == [0.0, 0.5, 1.5]
    assert times_of(numbers, 2.0, np.array([0, 1, 2, 7, 8, 9.5, 10]), Moment(1)).tolist() == [0.0, 6.0, 8.5]
    assert times_of(numbers, 0.0, None).tolist() == [0.0, 0.0, 0.0]


def real_clips(shared: Path) -> list[Path]:
    clips = sorted((shared / "data/msrvtt_mini/videos").glob("*.mp4"))
    if not clips:
        pytest.skip(f"no clips below {shared}")
    return clips


@pytest.mark.parametrize("reader", EVERY_READER[1:])
def test_real_clips_equal_sequential_decode_in_both_readers(reader: str, shared: Path) -> None:
    for path in real_clips(shared):
        with open_video(path) as ours, open_video(path, reader) as other:
            indices = np.linspace(0, ours.info.num_frames - 1, 7, dtype=int)[[3, 0, 6, 1, 1, 5]]
            frames = ours.read(indices)
            assert ours.info.num_frames == other.info.num_frames, path.name
            assert np.array_equal(frames, other.read(indices)), path.name
        wanted: dict[int, np.ndarray] = {}
        number = -1
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in indices:
                    wanted[number] = frame.to_ndarray(format="rgb24")
        assert number + 1 == ours.info.num_frames, path.name
        assert np.array_equal(frames, np.stack([wanted[index] for index in indices.tolist()])), path.name


@pytest.mark.parametrize("resize", ["shorter_side_crop", "squash"])
def test_resize_of_real_clips_equals_pil(resize: Resize, shared: Path) -> None:
    """performance.md P9: within 2 levels, at least 99.5 % of the values equal."""
    for path in real_clips(shared)[::3]:
        with open_video(path) as video:
            difference = difference_from_pil(video.read([0, 40]), resize, size=224)
        assert difference.max() <= 2, path.name
        assert (difference == 0).mean() >= 0.995, path.name


def test_truncated_real_clip(shared: Path, tmp_path: Path) -> None:
    source = real_clips(shared)[0]
    path = Path(shutil.copy(source, tmp_path / "short.mp4"))
    os.truncate(path, source.stat().st_size // 2)
    with pytest.raises(VideoError, match=r"short\.mp4: "):
        open_video(path)
