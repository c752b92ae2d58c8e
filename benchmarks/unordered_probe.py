"""How far do frames without their order tell speed and the number of repetitions? What a linear probe makes of them.

    python -m benchmarks.unordered_probe    # 70 s of one core; writes benchmarks/results/unordered_probe.json

Generates pairs of clips that differ in speed alone, or in how often a thing flashes alone (`petl-bench fixture --layout
pairs`), encodes and decodes them, and takes statistics over the frames that no order changes: of each pixel its mean,
standard deviation, least, median and greatest value. A ridge classifier learns from pairs of another seed which clip of
two is the faster one, or flashes more often, and is asked about the test pairs. Of direction, order and relation the
two clips have the same frames: their statistics are compared, and where they are equal to the bit nobody can choose
(50.0).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from petl_bench.data import sampling
from petl_bench.data.video import open_video
from petl_bench.fixture.diagnostic.clips import AXES, IN_TIME, TIMES, TRAVEL, Clip, clip_pixels
from petl_bench.fixture.diagnostic.layout import FPS, SIDE, pairs
from petl_bench.fixture.diagnostic.things import pixels_of
from petl_bench.fixture.scenes import INTRA_ONLY, encode
from petl_bench.runs.environment import environment

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "unordered_probe.json"
#: frames that are read of a clip: those of data/minimal_pairs.yaml, and all
FRAMES = (8, 15)
#: pairs of an axis, and their seeds; the test pairs are those that the layout writes
_TRAIN, _TEST = (300, 1), (150, 0)
#: squares into which the mean over a picture's pixels divides it, along one side
_GRIDS = (1, 4, 16)
_PENALTIES = tuple(10.0**power for power in range(-4, 3))
_DRAWN = 10_000
#: how much of it a clip has
_AMOUNT = {"speed": TRAVEL, "repetitions": TIMES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all axes, writes the result and prints it; 1 if frames backwards differ from those forwards."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        axes = {axis: same_frames(axis, clip) if AXES[axis] else probed(axis, clip) for axis in (*IN_TIME, *_AMOUNT)}
    versions = {"numpy": np.__version__, "av": av.__version__, "machine": platform.machine()}
    sizes = {"train_pairs": _TRAIN[0], "test_pairs": _TEST[0]}
    result = {"commit": environment()["commit"], **versions, **sizes, "axes": axes}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(axes, indent=1))
    return 0 if all(axes[axis]["pairs_with_equal_statistics"] == axes[axis]["pairs"] for axis in IN_TIME) else 1


def same_frames(axis: str, file: Path) -> dict[str, Any]:
    """Of how many test pairs both clips have the same statistics, whatever frames are read."""
    count, seed = _TEST
    equal = 0
    for pair in pairs(seed, axis, count):
        one, other = (decoded(clip, file) for clip in pair)
        equal += all(np.array_equal(statistics(one, frames), statistics(other, frames)) for frames in FRAMES)
    return {"pairs": count, "pairs_with_equal_statistics": equal, "accuracy": 50.0 if equal == count else None}


def probed(axis: str, file: Path) -> dict[str, Any]:
    """The accuracy of the probe on test pairs with a 95 % interval, in percent, by the frames that are read."""
    asked = {split: pairs(seed, axis, count) for split, (count, seed) in {"train": _TRAIN, "test": _TEST}.items()}
    shown = {split: [tuple(decoded(clip, file) for clip in pair) for pair in of] for split, of in asked.items()}
    wanted = {split: np.array([_label(axis, pair) for pair in of]) for split, of in asked.items()}
    found: dict[str, Any] = {"pairs": _TEST[0]}
    for frames in FRAMES:
        x = {
            split: np.stack([statistics(one, frames) - statistics(other, frames) for one, other in of])
            for split, of in shown.items()
        }
        right = choices(x["train"], wanted["train"], x["test"], wanted["test"])
        drawn = np.random.default_rng(0).choice(right, size=(_DRAWN, len(right))).mean(axis=1)
        interval = [round(100 * float(end), 1) for end in np.quantile(drawn, (0.025, 0.975))]
        found[f"of_{frames}_frames"] = {"accuracy": round(100 * float(right.mean()), 1), "interval": interval}
    return found


def _label(axis: str, pair: tuple[Clip, Clip]) -> int:
    """1 where the first clip of a pair is the faster one, or flashes more often; else -1."""
    one, other = (_AMOUNT[axis][clip.how] for clip in pair)
    return 1 if one > other else -1


def decoded(clip: Clip, file: Path) -> np.ndarray:
    """The frames of a clip as data modules read them: uint8 (F, side, side, 3)."""
    encode(file, pixels_of(clip_pixels(clip, SIDE)), FPS, INTRA_ONLY)
    with open_video(file) as video:
        return video.read(range(video.info.num_frames))


def statistics(shown: np.ndarray, frames: int) -> np.ndarray:
    """Statistics of some frames of a clip (F, side, side, 3) that their order does not change, to the bit: (D,)."""
    chosen = shown[sampling.uniform(len(shown), frames)].astype(np.int64)
    total, squares = chosen.sum(axis=0), (chosen**2).sum(axis=0)  # whole numbers, so that no order rounds otherwise
    spread = np.sqrt(frames * squares - total**2) / frames
    of_pixels = np.stack([total / frames, spread, chosen.min(axis=0), np.median(chosen, axis=0), chosen.max(axis=0)])
    pooled = [_pooled(of_pixels, grid).ravel() / grid for grid in _GRIDS]  # each grid with the same weight
    return np.concatenate(pooled)


def _pooled(maps: np.ndarray, grid: int) -> np.ndarray:
    """Means over squares: (K, side, side, 3) to (K, grid, grid, 3)."""
    count, side, _, channels = maps.shape
    return maps.reshape(count, grid, side // grid, grid, side // grid, channels).mean(axis=(2, 4))


def choices(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> np.ndarray:
    """What each test pair counts (N,), 1/2 where it ties: by ridge regression of 1 or -1 on differences of statistics.

    The penalty is the one that is best on the last fifth of the training pairs.
    """
    scale = np.maximum(np.sqrt((x**2).mean()), 1e-12)
    x, x_test = x / scale, x_test / scale
    kept = len(x) * 4 // 5
    best = max(_PENALTIES, key=lambda one: _counted(x[kept:] @ _ridge(x[:kept], y[:kept], one), y[kept:]).mean())
    return _counted(x_test @ _ridge(x, y, best), y_test)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    products = x @ x.T
    return x.T @ np.linalg.solve(products + penalty * np.trace(products) / len(x) * np.eye(len(x)), y)


def _counted(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(scores == 0, 0.5, np.sign(scores) == y)


if __name__ == "__main__":
    sys.exit(main())
