"""Trains a method for a few steps on fixed clips; the figures are what the regression test compares.

`python -m tests.regression.training` records them anew (`figures.json`), once a change that is meant to move them is
committed: the figures name the commit that gave them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.optimizers import AdamWCosine
from petl_bench.runs.environment import environment
from petl_bench.testing.samples import features, make_batch
from tests.contract.battery import builder, case_of

FIGURES = Path(__file__).with_name("figures.json")
STEPS = 12


def configurations() -> list[Path]:
    """The packaged fixture configurations that have something to train."""
    return [path for path in sorted(config_folder().glob("fixture_*.yaml")) if case_of(path).method.trainable]


def backbone_of(config: Path) -> str:
    """The kind of backbone that a configuration names."""
    return composed(config)["model"]["init_args"]["backbone"]["class_path"].rsplit(".", 1)[1].lower()


def train(config: Path) -> list[float]:
    """The loss before training, after half and after all steps, and the mean cosine of matching pairs at the end."""
    torch.manual_seed(0)
    method = builder(config, backbone_of(config))()
    batch = make_batch(method.backbone)
    optimizer, schedule = AdamWCosine(lr=1e-3, warmup=0.0).build(method.trainable_parameters(), STEPS)
    method.train()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = method.task.loss(method.backbone, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    video, text = features(method, batch)
    return [losses[0], losses[STEPS // 2], losses[-1], float((video * text).sum(-1).mean())]


def record() -> None:
    """Writes the figures of all configurations with the commit and the version of torch that gave them.

    Raises:
        SystemExit: the code is not that of a commit.
    """
    code = environment()
    if code["commit"] is None or code["dirty"]:
        raise SystemExit("figures are recorded for a commit: commit your changes first, then add figures.json to them")
    torch.set_num_threads(1)
    figures = {path.stem: [round(value, 6) for value in train(path)] for path in configurations()}
    found = {"commit": code["commit"], "torch": torch.__version__, "figures": figures}
    FIGURES.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
