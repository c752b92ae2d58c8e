"""Runs the command line in this process, on small generated datasets and the tiny random backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from petl_bench.cli.named_configs import config_folder, find_config
from petl_bench.main import main

#: what makes any packaged MSR-VTT or fixture configuration small enough for a test
TINY = (
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
    options = (f"--model.init_args.backbone={tiny_backbone(config)}", *TINY, f"--data.init_args.root={root}")
    return main([command, f"--config={config}", *options, f"--runs_dir={runs}", *more])


def tiny_backbone(config: str) -> str:
    """The packaged tiny backbone, with random weights, of the class and for the purpose that a configuration names."""

    def kind(named: str | dict[str, Any]) -> tuple[str, str | None]:
        fragment: Any = named
        if isinstance(named, str):
            fragment = yaml.safe_load(find_config(named).read_text(encoding="utf-8"))
        return fragment["class_path"], fragment["init_args"].get("purpose")

    named = kind(yaml.safe_load(find_config(config).read_text(encoding="utf-8"))["model"]["init_args"]["backbone"])
    tiny = (f"backbone/{path.name}" for path in (config_folder() / "backbone").glob("*_tiny*.yaml"))
    return next(name for name in sorted(tiny) if kind(name) == named)


def layout_of(config: str) -> str:
    """The layout of generated data that a configuration's data module reads; it has the name of the module."""
    data = yaml.safe_load(find_config(config).read_text(encoding="utf-8"))["data"]
    fragment = yaml.safe_load(find_config(data).read_text(encoding="utf-8"))
    return str(fragment["class_path"]).split(".")[1]


def only_record(runs: Path, name: str = "result.json") -> tuple[Path, dict[str, Any]]:
    """The folder and the record of the only run below `runs`."""
    (path,) = runs.rglob(name)
    return path.parent, json.loads(path.read_text(encoding="utf-8"))
