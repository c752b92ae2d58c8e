"""Loading an epoch of clips from the frame cache against decoding them with PyAV and with decord.

    python -m benchmarks.frame_cache /data/msrvtt/videos

Builds caches of a folder of clips in a temporary folder, then reads epochs by each way, interleaved; prints medians as
JSON. Twelve frames of 224 pixels are read per clip, uniformly out of one per second, in batches as a run has them. An
epoch is several passes over the folder in shuffled order, with the start of the loader's processes. `chosen` is a cache
of the frames that are read alone (`petl-bench data cache --keep chosen`), `jpeg` one of the same frames as JPEG
(`--data.jpeg_quality`, here `--quality`), whose pixels are compared with those of the others, `ahead` the cache with
the thread that a run without processes has. Times are CPU time of this process; with `--workers`, and of `cold`, wall
time. Files are in the page cache, as from the second epoch on where memory holds them; before each `cold` epoch, which
is one pass over the clips, the kernel is told to drop those of the cache, and before `decord_cold` the videos.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from petl_bench.data.build_cache import build
from petl_bench.data.cache import Clip, FrameCache, Profile
from petl_bench.data.datasets import ClipLoader, EvaluationDataset, collate
from petl_bench.data.samples import Sample
from petl_bench.data.workers import AheadLoader, LateLoader
from petl_bench.inputs import FrameRule, InputSpec

#: clips of a batch
_BATCH = 16
_PYAV = ClipLoader(FrameRule(12, "uniform", 1), 224, "shorter_side_crop", "pyav")


def no_words(captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
    """Stands for a tokenizer, which is no part of what is measured."""
    return torch.zeros(len(captions), max_words, dtype=torch.long), torch.ones(len(captions), max_words).bool()


SPEC = InputSpec(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "shorter_side_crop", 77, no_words)


def rows(paths: Sequence[Path], loader: ClipLoader) -> EvaluationDataset:
    samples = [Sample(f"{place}", ("",)) for place in range(len(paths))]
    return EvaluationDataset(samples, paths, loader, SPEC, 32, tolerate=False)


def epoch(
    kind: type[LateLoader], paths: Sequence[Path], loader: ClipLoader, workers: int, clock: Callable[[], float]
) -> float:
    """Milliseconds per clip of one pass over the paths, start of the processes included."""
    batches = kind(rows(paths, loader), batch_size=_BATCH, num_workers=workers, collate_fn=collate)
    start = clock()
    for _ in batches:
        pass
    return 1000 * (clock() - start) / len(paths)


def drop(files: Iterable[Path]) -> None:
    """Asks the kernel to forget files that it has in the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def filled(folder: Path, profile: Profile, paths: Sequence[Path], workers: int) -> FrameCache:
    cache = FrameCache(folder, profile)
    build(cache, [Clip(path) for path in paths], workers)
    return cache


def entries(cache: FrameCache) -> list[Path]:
    return [*cache.folder.rglob("*.safetensors")]


def deviation(loader: ClipLoader, other: ClipLoader, paths: Sequence[Path]) -> dict[str, float]:
    """By how many levels pixels of real frames differ on average: of all of them, and of the worst frame."""
    sample = Sample("clip", ("",))
    frames = []
    for path in paths:
        one, two = loader.load(path, sample), other.load(path, sample)
        off = (one.frames[one.mask].int() - two.frames[two.mask].int()).abs()
        frames += off.float().mean((1, 2, 3)).tolist()
    return {"mean": round(statistics.mean(frames), 2), "worst_frame": round(max(frames), 2)}


def measure(
    paths: Sequence[Path], folder: Path, workers: int, passes: int, repeats: int, quality: int
) -> dict[str, object]:
    """Bytes per clip, seconds to build, and milliseconds per clip by way of reading."""
    start = time.perf_counter()
    grid = filled(folder, _PYAV.profile, paths, workers)
    build_seconds = time.perf_counter() - start
    chosen = filled(folder, _PYAV.chosen_profile, paths, workers)
    compressed = replace(_PYAV, jpeg_quality=quality)
    small, small_grid = (
        filled(folder, profile, paths, workers) for profile in (compressed.chosen_profile, compressed.profile)
    )
    compressed = replace(compressed, cache=small)
    cached, decord = replace(_PYAV, cache=grid), replace(_PYAV, reader="decord")
    many, clock = [*paths] * passes, time.perf_counter if workers else time.process_time

    def shuffled(clips: Sequence[Path], number: int) -> list[Path]:
        return [clips[place] for place in np.random.default_rng(number).permutation(len(clips))]

    def cold(loader: ClipLoader, files: Iterable[Path], number: int) -> float:
        drop(files)
        return epoch(LateLoader, shuffled(paths, number), loader, workers, time.perf_counter)

    ways: dict[str, Callable[[int], float]] = {
        "cache": lambda n: epoch(LateLoader, shuffled(many, n), cached, workers, clock),
        "chosen": lambda n: epoch(LateLoader, shuffled(many, n), replace(_PYAV, cache=chosen), workers, clock),
        "jpeg": lambda n: epoch(LateLoader, shuffled(many, n), compressed, workers, clock),
        "ahead": lambda n: epoch(AheadLoader, shuffled(many, n), cached, workers, clock),
        "pyav": lambda n: epoch(LateLoader, shuffled(paths, n), _PYAV, workers, clock),
        "decord": lambda n: epoch(LateLoader, shuffled(paths, n), decord, workers, clock),
        "cold": lambda n: cold(cached, entries(grid), n),
        "decord_cold": lambda n: cold(decord, paths, n),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in [*ways][:: 1 if number % 2 else -1]:  # none is always the first
            found[way].append(ways[way](number))

    def times_faster(way: str, than: str) -> float:
        return round(statistics.median(b / a for a, b in zip(found[way], found[than], strict=True)), 1)

    return {
        "clips": len(paths),
        "workers": workers,
        "build_seconds": round(build_seconds, 2),
        "bytes_per_clip": {
            name: round(statistics.mean(path.stat().st_size for path in entries(cache)))
            for name, cache in (
                ("cache", grid),
                ("chosen", chosen),
                ("jpeg", small),
                ("cache_as_jpeg", small_grid),
            )
        },
        "levels_that_jpeg_is_off": deviation(replace(_PYAV, cache=chosen), compressed, paths),
        "bytes_per_video_file": round(statistics.mean(path.stat().st_size for path in paths)),
        "milliseconds_per_clip": {way: round(statistics.median(times), 3) for way, times in found.items()},
        "times_faster_than_decord": {
            way: times_faster(way, "decord") for way in ("cache", "chosen", "jpeg", "ahead", "pyav")
        }
        | {"cold": times_faster("cold", "decord_cold")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", type=Path, help="folder of clips")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=4, help="over the folder in an epoch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each way (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(options.videos.glob("*.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(paths, Path(folder), options.workers, options.passes, options.repeats, options.quality)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
