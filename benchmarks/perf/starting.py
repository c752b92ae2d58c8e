"""What a command takes until it does what it was asked for: nearly all of it imports."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.perf.rounds import ROOT, Row, interleave, left_out, ratio
from benchmarks.perf.steps import Sizes
from benchmarks.training_step import CheckoutError
from petl_bench.fixture import write_fixture


def first_step(sizes: Sizes) -> list[Row]:
    """CPU time of a process until the first training step of generated clips is done, tiny CLIP, against 3e531d0's."""
    what, goal = "CPU until the first step is done, generated clips, tiny CLIP / 3e531d0", 0.75
    if sizes.before is None:
        return [left_out(what, goal, "less", "needs --before, a checkout of 3e531d0")]
    folders = {"now": ROOT, "3e531d0": sizes.before}
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        write_fixture(Path(name, "data"), train_videos=8, test_videos=2, captions_per_video=1)
        sides = {side: lambda folder=folder: _seconds(folder, Path(name)) for side, folder in folders.items()}
        costs = interleave(sides, sizes.rounds)
    found = " and ".join(f"{side} {sorted(of)[len(of) // 2]:.3g} s" for side, of in costs.items())
    return [Row(what, goal, "less", ratio(costs["now"], costs["3e531d0"]), f"{found}: now / 3e531d0")]


def _seconds(checkout: Path, current: Path) -> float:
    """Of a process of its own, with one thread.

    Raises:
        CheckoutError: it took no step.
    """
    options = [
        *("--config=fixture_adaptformer", "--model.init_args.backbone=backbone/clip_tiny.yaml"),
        *("--data.root=data", "--data.init_args.batch_size=8", "--trainer.enable_progress_bar=false"),
    ]
    command = [sys.executable, "-P", str(Path(__file__).with_name("first_step.py")), *options]
    surroundings = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=current, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        (*_, last) = ["nothing was printed", *done.stderr.splitlines()]
        raise CheckoutError(f"{checkout} takes no first step: {last}")
    return float(done.stdout.splitlines()[-1])
