"""Batches of cached clips against batches that decord decodes, by the loader that training reads: `train_dataloader`.

Captions are tokenised on both sides, and everything that is checked in training is checked. Warm files are in the
page cache; cold ones are dropped from it before each turn, and wall time counts, for waiting is what a disk costs.

Readers against decord: 12 frames at even distances are decoded, and no more, of the same clips and of a long one.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from av.video.stream import VideoStream

from benchmarks.perf.rounds import ROOT, Row, cpu_seconds, interleave, left_out, ratio, summary
from benchmarks.perf.steps import Sizes
from datamodules.custom import Custom
from petl_bench.backbones.clip import CLIP
from petl_bench.data.build_cache import build
from petl_bench.data.video import READERS, open_video, reader_version
from petl_bench.errors import UsageError
from petl_bench.fixture import write_fixture
from petl_bench.inputs import InputSpec

_BATCH, _CAPTIONS = 16, 12
#: of the training split at least
CLIPS = 18


def real_clips() -> list[Path]:
    """A few clips of MSR-VTT, where they lie beside the checkout."""
    shared = Path(os.environ.get("PETL_BENCH_SHARED", ROOT.parent / "shared"))
    return sorted((shared / "data" / "msrvtt_mini" / "videos").glob("*.mp4"))


@contextmanager
def dataset(quick: bool, captions: int = _CAPTIONS, text: str = "caption of a clip") -> Iterator[tuple[Path, str]]:
    """A folder of clips with captions, and what clips they are.

    Args:
        quick: tiny clips.
        captions: of each training clip.
        text: of all captions.
    """
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        root, clips = Path(name), [] if quick else real_clips()
        if clips:
            (root / "videos").mkdir()
            for clip in clips:
                shutil.copy(clip, root / "videos")
        else:
            size = {"size": 64, "seconds": 2} if quick else {"size": 320, "seconds": 15, "fps": 25}
            write_fixture(root / "made", train_videos=19, test_videos=1, captions_per_video=1, **size)
            shutil.move(root / "made" / "videos", root / "videos")
        *train, test = sorted(path.name for path in (root / "videos").iterdir())
        for split, names, count in (("train", train, captions), ("test", [test], 1)):
            with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                rows = [(clip, f"{number} {text}") for clip in names for number in range(count)]
                csv.writer(file).writerows([("video", "caption"), *rows])
        yield root, f"{len(train)} clips {'of MSR-VTT' if clips else 'generated'}"


def module(root: Path, spec: InputSpec, **options: Any) -> Custom:
    """The data module of a `dataset`, linked to what a backbone expects; batches are read in this process."""
    defaults = {"batch_size": _BATCH, "frames": 12, "frame_rate": 1, "num_workers": 0, "partial": True}
    data = Custom(root, **defaults | options)
    data.link(spec, seed=0)
    return data


def cached(cold: bool, goal: float, sizes: Sizes) -> list[Row]:
    """How many times as fast a cached clip comes."""
    what = f"{'cold' if cold else 'warm'} clip of 12 frames, decord / cache"
    if find_spec("decord") is None:
        return [left_out(what, goal, "more", "decord is not installed (extra decord)")]
    with torch.device("meta"):
        spec = CLIP("tiny" if sizes.quick else "ViT-B-32-quickgelu", None).spec
    with dataset(sizes.quick) as (root, told):
        ours = module(root, spec, cache=root / "cache")
        cache = ours.clip_loader.cache
        assert cache is not None, "its folder was given"
        build(cache, ours.clips(), workers=0)
        theirs = module(root, spec, reader="decord")
        for data in (ours, theirs):
            data.setup("fit")
        files = [path for path in root.rglob("*") if path.is_file()]
        dropped = files if cold else []
        # What decord needs for two batches is enough of a turn.
        sides = {"cache": lambda: of_clip(ours, None, dropped), "decord": lambda: of_clip(theirs, 2, dropped)}
        costs = interleave(sides, sizes.rounds)
    found = " and ".join(f"{name} {1000 * summary(turns).value:.3g} ms" for name, turns in costs.items())
    return [Row(what, goal, "more", ratio(costs["decord"], costs["cache"]), f"{found}; {told}")]


def decoding(sizes: Sizes) -> list[Row]:
    """What a reader takes of the time that decord takes for the same pixels, of a short clip and of a long one."""
    readers = [reader for reader in READERS if reader != "decord"]
    whats = {reader: f"decoding 12 frames of a {{}} clip, {reader} / decord" for reader in readers}
    lacking = [reader for reader in ("decord", "torchcodec") if not _can_read(reader)]
    rows = [
        left_out(whats[reader].format(kind), 1, "less", f"{absent[0]} is not installed (extra {absent[0]})")
        for reader in readers
        for kind in ("short", "long")
        if (absent := [name for name in lacking if name in ("decord", reader)])
    ]
    sides = [reader for reader in READERS if reader not in lacking]
    if "decord" not in sides:
        return rows
    with dataset(sizes.quick) as (root, told):
        clips = sorted((root / "videos").iterdir())[:-1]  # of the training split, whose number is told
        seconds = 4 if sizes.quick else 120
        long = joined(clips, root / "long.mp4", seconds)
        for kind, files, what in (("short", clips, told), ("long", [long], f"{seconds} s, a key frame a second")):
            _require_equal(sides, files)
            costs = interleave({reader: partial(of_decoding, reader, files) for reader in sides}, sizes.rounds)
            found = " and ".join(f"{name} {1000 * summary(turns).value:.3g} ms" for name, turns in costs.items())
            rows += [
                Row(whats[reader].format(kind), 1, "less", ratio(costs[reader], costs["decord"]), f"{found}; {what}")
                for reader in sides
                if reader != "decord"
            ]
    return rows


def of_decoding(reader: str, files: Sequence[Path]) -> float:
    """Seconds of CPU per file."""
    return cpu_seconds(lambda: [_frames(reader, file) for file in files]) / len(files)


def _frames(reader: str, file: Path) -> np.ndarray:
    with open_video(file, reader) as video:
        return video.read(np.linspace(0, video.info.num_frames - 1, 12).astype(int))


def _can_read(reader: str) -> bool:
    try:
        reader_version(reader)
    except UsageError:
        return False
    return True


def _require_equal(readers: Sequence[str], files: Sequence[Path]) -> None:
    for file in files:
        first, *others = (_frames(reader, file) for reader in readers)
        if not all(np.array_equal(first, other) for other in others):
            raise AssertionError(f"{file.name}: readers give different pixels")


def joined(clips: Sequence[Path], path: Path, seconds: int, fps: int = 30) -> Path:
    """One long clip, of the frames of others one after another, with a key frame a second."""
    width, height = 320, 240
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream("libx264", rate=fps, options={"preset": "veryfast"}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = fps, 1
        number = 0
        for clip in cycle(clips):
            with open_video(clip) as video:
                for _, picture in video.each(range(min(video.info.num_frames, fps * seconds - number))):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(width, height, "yuv420p")
                    frame.pts, number = number, number + 1
                    container.mux(stream.encode(frame))
            if number == fps * seconds:
                break
        container.mux(stream.encode())
    return path


def of_clip(data: Custom, batches: int | None, dropped: Sequence[Path]) -> float:
    """Seconds per clip of an epoch or its first batches; wall time where files are dropped before, else CPU time."""
    for path in dropped:
        _drop(path)
    clock, clips = time.perf_counter if dropped else time.process_time, 0
    began = clock()
    for batch in islice(data.train_dataloader(), batches):
        clips += len(batch.video_index)
    return (clock() - began) / clips


def _drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
