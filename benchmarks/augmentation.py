"""What a training augmentation adds to the loading of clips.

    python -m benchmarks.augmentation /data/msrvtt/videos

Reads each clip of a folder with PyAV as data/msrvtt.yaml does (12 frames of 224 pixels, uniformly out of one per
second), with and without the augmentation in turn, and prints medians of CPU milliseconds per clip as JSON; every pass
over the folder draws anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from petl_bench.data.augmentation import RandAugment
from petl_bench.data.datasets import Augment, ClipLoader
from petl_bench.data.samples import Sample
from petl_bench.inputs import FrameRule


def load_seconds(loader: ClipLoader, path: Path, augment: Augment | None) -> float:
    """CPU time of this process for one clip."""
    start = time.process_time()
    loader.load(path, Sample(path.stem, ("",)), None, augment)
    return time.process_time() - start


def measure(paths: list[Path], name: str, passes: int) -> dict[str, object]:
    """Median milliseconds of a pass per clip, by way of loading."""
    loader, augmentation = ClipLoader(FrameRule(12, "uniform", 1), 224, "shorter_side_crop", "pyav"), RandAugment(name)
    plain, augmented = [], []
    for number in range(passes):
        seeds = range(number * len(paths), (number + 1) * len(paths))
        pairs = [
            (load_seconds(loader, path, None), load_seconds(loader, path, partial(augmentation, seed=seed)))
            for path, seed in zip(paths, seeds, strict=True)
        ]
        plain.append(sum(pair[0] for pair in pairs) / len(paths))
        augmented.append(sum(pair[1] for pair in pairs) / len(paths))
    medians = {"plain": statistics.median(plain), name: statistics.median(augmented)}
    return {
        "clips": len(paths),
        "passes": passes,
        "cpu_milliseconds_per_clip": {way: round(1000 * seconds, 1) for way, seconds in medians.items()},
        "ratio": round(medians[name] / medians["plain"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", type=Path, help="folder of clips")
    parser.add_argument("--augmentation", default="rand-m7-n4-mstd0.5-inc1", help="(default: %(default)s)")
    parser.add_argument("--passes", type=int, default=5, help="over the folder (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(sorted(options.videos.glob("*.mp4")), options.augmentation, options.passes), indent=2))


if __name__ == "__main__":
    main()
