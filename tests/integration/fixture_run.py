"""Runs the command line in this process, on a small generated dataset and the tiny random backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from petl_bench.main import main

#: what makes any packaged MSR-VTT or fixture configuration small enough for a test
TINY = (
    "--model.init_args.backbone=backbone/clip_tiny.yaml",
    "--trainer=trainer/fixture.yaml",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.batch_size=8",
    "--data.init_args.frames=8",
    "--data.init_args.frame_rate=2",
    "--data.init_args.num_workers=0",
    "--data.init_args.partial=true",
)


def run(command: str, config: str, root: Path, runs: Path, *more: str) -> int:
    """Exit code of one command on the dataset at `root`."""
    return main([command, f"--config={config}", *TINY, f"--data.init_args.root={root}", f"--runs_dir={runs}", *more])


def only_record(runs: Path, name: str = "result.json") -> tuple[Path, dict[str, Any]]:
    """The folder and the record of the only run below `runs`."""
    (path,) = runs.rglob(name)
    return path.parent, json.loads(path.read_text(encoding="utf-8"))
