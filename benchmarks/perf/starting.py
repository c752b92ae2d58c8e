"""What there is around the steps of a training: imports until the first is done, and what Lightning adds to each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.perf.rounds import ROOT, Row, interleave, left_out, ratio, summary
from benchmarks.perf.steps import Sizes
from benchmarks.training_step import CheckoutError
from petl_bench.fixture import write_fixture

#: of `petl-bench fit`, on generated clips and with the tiny CLIP
_FIT = (
    *("--config=fixture_adaptformer", "--model.init_args.backbone=backbone/clip_tiny.yaml", "--data.root=data"),
    "--trainer.enable_progress_bar=false",
)


def first_step(sizes: Sizes) -> list[Row]:
    """CPU time of a process until the first training step of generated clips is done, tiny CLIP, against 3e531d0's."""
    what, goal = "CPU until the first step is done, generated clips, tiny CLIP / 3e531d0", 0.75
    if sizes.before is None:
        return [left_out(what, goal, "less", "needs --before, a checkout of 3e531d0")]
    folders = {"now": ROOT, "3e531d0": sizes.before}
    with _clips() as current:
        sides = {side: lambda folder=folder: _first_step(folder, current) for side, folder in folders.items()}
        costs = interleave(sides, sizes.rounds)
    found = " and ".join(f"{side} {summary(of).value:.3g} s" for side, of in costs.items())
    return [Row(what, goal, "less", ratio(costs["now"], costs["3e531d0"]), f"{found}: now / 3e531d0")]


def _first_step(checkout: Path, current: Path) -> float:
    return float(_said(checkout, current, "first_step.py", "--data.init_args.batch_size=8"))


def step_overhead(sizes: Sizes) -> list[Row]:
    """What `fit` adds to a bare training step, in turns of one process: no progress bar, batches in memory."""
    options = [
        *("--data.init_args.batch_size=4", "--data.init_args.frames=2", "--trainer.log_every_n_steps=50"),
        *("--trainer.limit_val_batches=0", "--trainer.max_epochs=1"),
    ]
    with _clips() as current:
        turns = json.loads(_said(ROOT, current, "step_overhead.py", *options, str(sizes.rounds)))
    bare, added = zip(*turns, strict=True)
    how = f"bare step {summary(bare).value:.3g} ms, tiny CLIP, 4 clips of 2 frames, without progress bar"
    return [Row("milliseconds that fit adds to a step", 1.0, "less", summary(added), how)]


@contextmanager
def _clips() -> Iterator[Path]:
    """A folder with generated clips."""
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        write_fixture(Path(name, "data"), train_videos=8, test_videos=2, captions_per_video=1)
        yield Path(name)


def _said(checkout: Path, current: Path, script: str, *arguments: str) -> str:
    """The last line of a process of its own, with one thread.

    Raises:
        CheckoutError: it failed.
    """
    command = [sys.executable, "-P", str(Path(__file__).with_name(script)), *_FIT, *arguments]
    surroundings = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=current, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        (*_, last) = ["nothing was printed", *done.stderr.splitlines()]
        raise CheckoutError(f"{checkout} takes no such steps: {last}")
    return done.stdout.splitlines()[-1]
