"""A dress rehearsal: a made-up dataset of MSR-VTT's size goes all the way from clips to the report.

    python -m benchmarks.scale WORK [--clips 10000] [--captions 20] [--size 64] [--workers 2] [--output FILE]

Writes clips and captions in MSR-VTT's layout, then calls what a user calls: `data describe`, `data cache` (12 frames of
224 pixels), an epoch of the training loader in batches of 128, `test` of a tiny CLIP without training on a tenth of the
clips, and `report`. Beside it, all captions and all clips are ranked from random features of width 512, both ways. Each
part is a process of its own; wall time, CPU time with that of its children, and its peak memory are printed, and the
bytes on disk of what is left. Clips are 12 frames of SIZE pixels, which are decoded faster than videos of 15 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# Nothing else is imported here: a child's peak memory begins with that of the process that starts it.
ROOT = Path(__file__).resolve().parents[1]
FRAMES, WIDTH, BATCH = 12, 512, 128
_WORDS = ("a", "man", "woman", "dog", "is", "are", "talks", "about", "plays", "sings", "in", "on", "the", "red", "car")


class Size(NamedTuple):
    """How large the dataset is; see the command's options."""

    clips: int
    captions: int
    size: int
    workers: int


# --- parts that no command does ------------------------------------------------------------------------------------


def make(size: Size) -> None:
    """Writes the dataset into `data`."""
    import numpy as np

    from petl_bench.fixture.msrvtt import write_msrvtt
    from petl_bench.fixture.scenes import render, train_scenes

    draw, rng = random.Random(0), np.random.default_rng(0)
    # Splits need no scenes of their own here, which there would not be enough of: captions say nothing of their clips.
    scenes = train_scenes(rng, [], size.clips)
    captions = [[" ".join(draw.choices(_WORDS, k=draw.randint(5, 15))) for _ in range(size.captions)] for _ in scenes]
    clips = (
        render(scene, np.random.default_rng(number), FRAMES // 2, size.size) for number, scene in enumerate(scenes)
    )
    write_msrvtt(Path("data"), 0, size.clips - size.clips // 10, captions, clips, num_frames=FRAMES, fps=1)


def epoch(size: Size) -> None:
    """Reads each caption with its clip once, as training does."""
    import torch

    from datamodules.msrvtt import MSRVTT
    from petl_bench.backbones.clip import CLIP

    with torch.device("meta"):
        spec = CLIP("ViT-B-16-quickgelu", None).spec
    data = MSRVTT(Path("data"), batch_size=BATCH, cache=Path("cache"), num_workers=size.workers, partial=True)
    data.link(spec, seed=0)
    data.setup("fit")
    for batch in data.train_dataloader():
        assert len(batch.clips.frames) == BATCH, "training has whole batches only"


def ranks(size: Size) -> None:
    """Ranks all captions and all clips, both ways."""
    import torch

    from petl_bench.metrics.retrieval import RetrievalMetric

    index = torch.arange(size.clips)
    of_text = index.repeat_interleave(size.captions)
    metric = RetrievalMetric(size.clips, len(of_text))
    features = torch.randn(size.clips, WIDTH)
    metric.update_videos(
        torch.nn.functional.normalize(features, dim=-1), index, torch.ones(size.clips, dtype=torch.bool)
    )
    texts = features[of_text] + 10 * torch.randn(len(of_text), WIDTH)
    metric.update_texts(torch.nn.functional.normalize(texts, dim=-1), torch.arange(len(of_text)), of_text)
    metric.compute()


_PARTS = {"make": make, "epoch": epoch, "ranks": ranks}


# --- all of it -----------------------------------------------------------------------------------------------------


def commands(size: Size) -> dict[str, list[str]]:
    """What is called for each part, in this order."""
    asked = json.dumps(size)
    ours = {name: ["-m", "benchmarks.scale", "--part", name, asked] for name in _PARTS}
    data = ["--config", "data/msrvtt.yaml", "--data.root", "data", "--data.partial", "true"]
    tiny = ["architecture=tiny", "image_size=224", "pretrained=null"]
    backbone = [f"--model.init_args.backbone.init_args.{option}" for option in tiny]
    read = ["--data.root", "data", "--data.cache", "cache", "--data.partial", "true"]
    read += ["--data.num_workers", str(size.workers), "--trainer.accelerator", "cpu"]
    cli = ["-m", "petl_bench"]
    return {
        "make": ours["make"],
        "describe": [*cli, "data", "describe", *data],
        "cache": [*cli, "data", "cache", *data, "--cache", "cache", "--workers", str(max(1, size.workers))],
        "epoch of the loader": ours["epoch"],
        "test": [*cli, "test", "--config", "msrvtt_zeroshot", *read, *backbone],
        "ranks of all": ours["ranks"],
        "report": [*cli, "report", "runs"],
    }


def rehearse(work: Path, size: Size) -> dict[str, Any]:
    """Calls all parts in an empty folder, and prints what each takes."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    found: dict[str, Any] = {}
    for name, command in commands(size).items():
        began = time.perf_counter()
        with (work / "log.txt").open("a") as log:
            started = subprocess.Popen([sys.executable, *command], cwd=work, env=surroundings, stdout=log, stderr=log)
            _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            raise SystemExit(f"scale: {name} ended with {started.returncode}, see {work / 'log.txt'}")
        found[name] = {
            "wall_s": round(time.perf_counter() - began, 1),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mb": round(usage.ru_maxrss / 1000),
        }
        print(f"{name:<20}", *(f"{key} {value:>9}" for key, value in found[name].items()), flush=True)
    disk = {folder: _megabytes(work / folder) for folder in ("data", "cache", "runs", "report")}
    print("MB on disk:", ", ".join(f"{folder} {size}" for folder, size in disk.items()))
    return {**size._asdict(), "parts": found, "disk_mb": disk}


def _megabytes(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 2)


def main(arguments: list[str] | None = None) -> int:
    """Does all parts, or one of ours in a process that the former has started."""
    parser = argparse.ArgumentParser(prog="scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="an empty folder, or one to be made; what is written stays there")
    parser.add_argument("--clips", type=int, default=10_000, help="of all splits, 40 or more (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=20, help="of a clip (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of a frame, in pixels (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the same as JSON")
    options = parser.parse_args(arguments)
    size = Size(options.clips, options.captions, options.size, options.workers)
    if size.clips < 40 or size.captions < 1 or size.size < 32 or size.size % 2 or size.workers < 0:
        parser.error("40 clips, 1 caption and an even number of 32 pixels are the least, and 0 workers")
    if 9 * size.clips * size.captions < 10 * BATCH:
        parser.error(f"nine tenths of the captions make no batch of {BATCH}: more clips or captions")
    if options.work.exists() and (not options.work.is_dir() or any(options.work.iterdir())):
        parser.error(f"{options.work} is not an empty folder")
    options.work.mkdir(parents=True, exist_ok=True)
    found = rehearse(options.work.resolve(), size)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        _PARTS[sys.argv[2]](Size(*json.loads(sys.argv[3])))
    else:
        sys.exit(main())
