"""Is a clip told from its reverse? Exactly half of the time by frames without order; far more often by who reads order.

    python -m benchmarks.reversed_clips [--work FOLDER] [--seeds N]

Writes generated clips in RTime's layout, and answers RTime-Binary's questions with the small CLIP of the package: by
mean pooling without training, and by ST-Adapter, trained on the training clips' questions. It takes a few minutes on
one thread. `benchmarks/results/reversed_clips.json` is what came out; the exit code is 1 unless the first
accuracy is 50.0 to the last digit and the lower end of each 95 % interval of the second above it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import torch

from petl_bench.data.samples import REVERSED
from petl_bench.main import main as petl_bench
from petl_bench.runs.environment import environment

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "reversed_clips.json"
_TRAIN, _TEST = 240, 72
_DATA = """\
base: data/rtime_binary.yaml
init_args:
  root: {root}
  batch_size: 32
  frames: 6
  frame_rate: null
  sampling: segment_middle
  max_words: 32
  num_workers: 0
  partial: true
"""
_EPOCHS = "--trainer.max_epochs=4"
_DRAWN = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all, writes the result and returns 0 if it is what is claimed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=None, help="folder for clips and runs (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of ST-Adapter (default: 3)")
    options = parser.parse_args(arguments)
    commit = environment()["commit"]
    with tempfile.TemporaryDirectory() as temporary:
        rows = measured(options.work or Path(temporary), options.seeds)
    result = {
        "commit": commit,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "train_videos": _TRAIN,
        "test_videos": _TEST,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))
    return 0 if holds(rows) else 1


def measured(work: Path, seeds: int) -> list[dict[str, Any]]:
    """What each method got."""
    clips = work / "rtime"
    sizes = (f"--train-videos={_TRAIN}", f"--test-videos={_TEST}", "--captions-per-video=1")
    _run("fixture", str(clips), "--layout=rtime", *sizes)
    data = work / "data.yaml"
    data.write_text(_DATA.format(root=clips), encoding="utf-8")
    given = (f"--data={data}", "--model.init_args.task=task/choice.yaml")
    rows = []
    for method, seed in [("zeroshot", 0), *(("st_adapter", seed) for seed in range(seeds))]:
        runs = work / f"{method}_{seed}"
        _run("fit", f"--config=fixture_{method}", *given, _EPOCHS, f"--seed_everything={seed}", f"--runs_dir={runs}")
        (ranks,) = runs.rglob("ranks.npz")
        with np.load(ranks) as arrays:
            rows.append({"method": method, "seed": seed, **summary(arrays)})
    return rows


def _run(*arguments: str) -> None:
    quiet = ("--trainer.enable_progress_bar=false",) if arguments[0] == "fit" else ()
    if code := petl_bench([*arguments, *quiet]):
        raise SystemExit(code)


def summary(ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy of all questions and of either way with a 95 % interval, in percent.

    The interval is a bootstrap over videos: all questions about a video and its reverse are drawn together.
    """
    clips = ranks["video_id"][ranks["text_video"]]
    files = np.unique([str(clip).removesuffix(REVERSED) for clip in clips], return_inverse=True)[1]
    count = files.max() + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWN)  # (draws, files)
    found: dict[str, Any] = {"videos": int(count), "questions": len(files)}
    for way in ("all", "v2t", "t2v"):
        asked = (ranks["question_type"] == way) | (way == "all")
        scores = np.bincount(files, ranks["correct"] * asked, minlength=count)
        questions = np.bincount(files, asked, minlength=count)
        ends = np.quantile((drawn @ scores) / (drawn @ questions), (0.025, 0.975))
        accuracy = 100 * scores.sum() / questions.sum()
        found[way] = {"accuracy": float(accuracy), "interval": [round(100 * float(end), 2) for end in ends]}
    return found


def holds(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether order-blind frames get 50.0 either way, and each training of the other method more beyond doubt."""
    blind = [row for row in rows if row["method"] == "zeroshot"]
    reading = [row for row in rows if row["method"] != "zeroshot"]
    ways = ("all", "v2t", "t2v")
    even = all(row[way]["accuracy"] == 50.0 for row in blind for way in ways)
    return bool(blind and reading) and even and all(row[way]["interval"][0] > 50 for row in reading for way in ways)


if __name__ == "__main__":
    sys.exit(main())
