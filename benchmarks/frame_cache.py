"""Loading an epoch of clips from the frame cache against decoding them with PyAV and with decord.

    python -m benchmarks.frame_cache /data/msrvtt/videos

Builds a cache of a folder of clips in a temporary folder, then reads epochs by each way, interleaved; prints medians
as JSON. Twelve frames of 224 pixels are read per clip, uniformly out of one per second. An epoch is several passes over
the folder in shuffled order, with the start of the loader's processes. Files are in the page cache, as from the second
epoch on where memory holds them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from petl_bench.data.build_cache import build
from petl_bench.data.cache import Clip, FrameCache
from petl_bench.data.datasets import ClipLoader
from petl_bench.data.samples import Sample
from petl_bench.inputs import FrameRule


class Clips(Dataset[Tensor]):
    """The padded frames of each clip, (T, 3, S, S)."""

    def __init__(self, paths: Sequence[Path], loader: ClipLoader) -> None:
        self.paths, self.loader = paths, loader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.loader.load(self.paths[index], Sample(self.paths[index].stem, ("",))).frames


def epoch_seconds(clips: Clips, workers: int, batch_size: int) -> float:
    """Wall time of one pass in shuffled order, worker start included."""
    loader = DataLoader(clips, batch_size, shuffle=True, num_workers=workers)
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def measure(paths: Sequence[Path], folder: Path, workers: int, passes: int, repeats: int) -> dict[str, object]:
    """Bytes per clip, seconds to build, and median milliseconds per clip by way of reading."""
    pyav = ClipLoader(FrameRule(12, "uniform", 1), 224, "shorter_side_crop", "pyav")
    cache = FrameCache(folder, pyav.profile)
    start = time.perf_counter()
    build(cache, [Clip(path) for path in paths], workers)
    build_seconds = time.perf_counter() - start
    sizes = [path.stat().st_size for path in cache.folder.rglob("*.safetensors")]

    ways = {"cache": replace(pyav, cache=cache), "pyav": pyav, "decord": replace(pyav, reader="decord")}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, loader in ways.items():
            seconds[way].append(epoch_seconds(Clips([*paths] * passes, loader), workers, batch_size=8))
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "clips": len(paths),
        "workers": workers,
        "build_seconds": round(build_seconds, 2),
        "bytes_per_clip": round(statistics.mean(sizes)),
        "bytes_per_video_file": round(statistics.mean(path.stat().st_size for path in paths)),
        "milliseconds_per_clip": {
            way: round(1000 * value / (passes * len(paths)), 2) for way, value in medians.items()
        },
        "epoch_time_of_cache": {f"to {way}": round(medians["cache"] / medians[way], 4) for way in ("pyav", "decord")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", type=Path, help="folder of clips")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=4, help="over the folder in an epoch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each way (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(options.videos.glob("*.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(paths, Path(folder), options.workers, options.passes, options.repeats), indent=2))


if __name__ == "__main__":
    main()
