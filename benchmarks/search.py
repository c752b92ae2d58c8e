"""Seconds of a second search: start-up, text tower, and the product over all windows, in a process of its own.

    python -m benchmarks.search [--clips 10000] [--architecture ViT-B-32-quickgelu]

The index is made up: a text tower with random weights, random features, empty files in the place of videos.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from petl_bench.backbones.clip import CLIP
from petl_bench.search.index import Indexed, Rows, Stamp
from petl_bench.search.session import VideoSearch
from petl_bench.search.shards import Folder
from petl_bench.search.tracing import exported

_ROUNDS = 5
_SECOND = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from petl_bench.search.session import VideoSearch
imported = time.perf_counter()
search = VideoSearch(sys.argv[1], Path(sys.argv[2]))
found = search.open()
opened = time.perf_counter()
hits = found.of_text("a man plays the guitar in the rain", 10)
done = time.perf_counter()
assert len(hits) == 10
assert not {"pytorch_lightning", "torchvision", "open_clip"} & set(sys.modules)
print(imported - began, opened - imported, done - opened)
"""


def made_up(folder: Path, clips: int, architecture: str) -> Path:
    """An index that `VideoSearch` takes for its own; gives the folder of the videos."""
    videos = folder / "videos"
    videos.mkdir()
    backbone = CLIP(architecture, None).eval().requires_grad_(False)
    files = []
    for number in range(clips):
        path = videos / f"video{number}.mp4"
        path.touch()
        status = path.stat()
        files.append(Indexed(path.name, Stamp(status.st_size, status.st_mtime_ns), ((0.0, 10.0),)))
    search = VideoSearch("fixture_zeroshot", videos)
    storage = search.storage
    assert isinstance(storage, Folder)
    storage.path.mkdir(parents=True)
    said = {"key": search.key, "adapter": search.adapter, "seconds": None, "two_stage": None}
    storage.create({**said, "pooling": {"pooling": "mean"}}, exported(backbone, 77))
    features = torch.nn.functional.normalize(torch.randn(clips, backbone.embed_dim), dim=-1)
    storage.add(files, [Rows(features)])
    return videos


def main() -> None:
    """Prints the medians as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--architecture", default="ViT-B-32-quickgelu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        videos = made_up(Path(name), options.clips, options.architecture)
        rounds = []
        for _ in range(_ROUNDS):
            command = [sys.executable, "-c", _SECOND, "fixture_zeroshot", str(videos)]
            began = time.perf_counter()
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rounds.append([*map(float, told.split()), time.perf_counter() - began])
    medians = torch.tensor(rounds).median(0).values.tolist()
    names = ("import", "files and index", "text tower and product", "all")
    found = {name: round(seconds, 3) for name, seconds in zip(names, medians, strict=True)}
    print(json.dumps({"clips": options.clips, "architecture": options.architecture, "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
