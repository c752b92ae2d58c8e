"""Runs the command line in this process, on small generated datasets and the tiny random backbones."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder, find_config, list_configs
from petl_bench.main import main

#: what makes any packaged MSR-VTT or fixture configuration small enough for a test
TINY = (
    "--trainer=trainer/fixture.yaml",
    "--trainer.max_epochs=1",
    "--trainer.precision=32-true",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.batch_size=8",
    "--data.init_args.frames=8",
    "--data.init_args.frame_rate=2",
    "--data.init_args.num_workers=0",
    "--data.init_args.partial=true",
)


def run(command: str, config: str, root: Path, runs: Path, *more: str) -> int:
    """Exit code of one command on the dataset at `root`."""
    options = (f"--model.init_args.backbone={tiny_backbone(config)}", *TINY, f"--data.init_args.root={root}")
    return main([command, f"--config={config}", *options, f"--runs_dir={runs}", *more])


@functools.cache
def tiny_backbone(config: str) -> str:
    """The packaged tiny backbone, with random weights, of the kind that a configuration names, or else CLIP's."""
    block = composed(find_config(config))["model"]["init_args"]["backbone"]
    named = (name for name in list_configs() if name.startswith("backbone/") and "tiny" in name)
    own = (name for name in named if _fragment(name)["class_path"] == block["class_path"])
    return next(own, "backbone/clip_tiny.yaml")


def layout_of(config: str) -> str:
    """The layout of generated data that a configuration's data module reads; it has the name of the module."""
    return str(composed(find_config(config))["data"]["class_path"]).split(".")[1]


def _fragment(name: str) -> dict[str, Any]:
    return composed(config_folder() / name)


def only_record(runs: Path, name: str = "result.json") -> tuple[Path, dict[str, Any]]:
    """The folder and the record of the only run below `runs`."""
    (path,) = runs.rglob(name)
    return path.parent, json.loads(path.read_text(encoding="utf-8"))
