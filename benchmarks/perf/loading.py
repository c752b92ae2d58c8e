"""Batches of cached clips against batches that decord decodes, by the loader that training reads: `train_dataloader`.

Captions are tokenised on both sides, and everything that is checked in training is checked. Warm files are in the
page cache; cold ones are dropped from it before each turn, and wall time counts, for waiting is what a disk costs.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.perf.rounds import ROOT, Row, interleave, left_out, ratio, summary
from benchmarks.perf.steps import Sizes
from datamodules.custom import Custom
from petl_bench.backbones.clip import CLIP
from petl_bench.data.build_cache import build
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
