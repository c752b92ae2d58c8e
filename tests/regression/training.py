"""Trains a packaged configuration on a few generated clips and tests it, and takes the figures."""

from __future__ import annotations

import csv
import functools
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from petl_bench.cli.configuration import configured
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.data import datasets
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Batch, rows_of_clips
from petl_bench.data.video import load_frames
from petl_bench.method import Method
from petl_bench.runs import session
from petl_bench.runs.folder import ADAPTER_NAME, METRICS_NAME
from petl_bench.storage.dotted import get

#: figures by name
Figures = dict[str, float]

#: methods that train on BLIP and for questions, too: with adapters in towers or behind them, and whole
_ELSEWHERE = ("adaptformer", "full", "mvadapter", "uniadapter")
_FAMILIES = ("fixture_blip", "fixtureqa", "fixtureqa_blip")

#: of all, so that figures stay when rates are chosen anew
_RATE = 1e-3

#: all recipes of a process read the same clips
_decoded_once = functools.cache(load_frames)


def recipes() -> list[str]:
    """Every method on CLIP for retrieval, and a few on BLIP and for questions."""
    every = [path.stem for path in sorted(config_folder().glob("fixture_*.yaml"))]
    of_clip = [name for name in every if not name.startswith("fixture_blip_")]
    return [*of_clip, *(f"{family}_{method}" for family in _FAMILIES for method in _ELSEWHERE)]


@mock.patch.object(datasets, "load_frames", _decoded_once)
def train(recipe: str, clips: Path, folder: Path, seed: int = 0) -> Figures:
    """Trains one epoch, writes the adapter, loads it into a new model and tests that.

    Args:
        recipe: name of a packaged configuration.
        clips: what `tests.regression.clips` wrote.
        folder: for the run.
        seed: `seed_everything`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with configured("fit", _options(recipe, clips, folder, seed)) as configuration:
        trained = configuration.experiment()
        before = _trained_tensors(trained.method.adapt())
        record = session.fit(trained)
    assert record is not None, "the test split has answers"
    figures = _of_parameters(trained.method, before) | _of_losses(folder)
    if not trained.method.trainable:
        return figures | _of_record(record) | _of_features(trained.method, trained.data)
    run = next(folder.rglob(ADAPTER_NAME)).parent
    with configured("test", [f"--config={run / 'config.yaml'}", f"--ckpt_path={run / ADAPTER_NAME}"]) as configuration:
        tested = configuration.experiment()
        record = session.test(tested)
    assert record is not None
    return figures | _of_record(record) | _of_features(tested.method, tested.data)


def _options(recipe: str, clips: Path, folder: Path, seed: int) -> list[str]:
    options: dict[str, Any] = {
        "config": recipe,
        "seed_everything": seed,
        "runs_dir": folder,
        "data.root": clips,
        "data.batch_size": 16,
        "data.num_workers": 0,
        "trainer.max_epochs": 1,
        "trainer.precision": "32-true",  # so that rounding tells little of machines
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
    }
    if get(composed(config_folder() / f"{recipe}.yaml"), "model.init_args.optimizer"):
        options["model.optimizer.lr"] = _RATE
    return [f"--{name}={value}" for name, value in options.items()]


def _trained_tensors(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.trained_state().items()}


# --- figures ----------------------------------------------------------------------------------------------------------


def _of_parameters(method: Method, before: dict[str, Tensor]) -> Figures:
    """How many are trained, in how many tensors, whether each of these moved, and how far they went together."""
    after = method.trained_state()
    moved = [float((after[name].double() - before[name].double()).norm()) for name in before]
    return {
        "trained parameters": method.parameter_counts()["trainable"],
        "tensors that moved": sum(length > 0 for length in moved),
        "way of parameters": sum(length**2 for length in moved) ** 0.5,
    }


def _of_losses(folder: Path) -> Figures:
    """Losses of training: of the first step, of the last ones, of all."""
    with next(folder.rglob(METRICS_NAME)).open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
    if not losses:
        return {}
    return {"first loss": losses[0], "last loss": sum(losses[-3:]) / 3, "mean loss": sum(losses) / len(losses)}


def _of_record(record: dict[str, Any]) -> Figures:
    """Of the test, as its record has it."""
    found = record["eval"]
    if "accuracy" in found:
        return {"accuracy": found["accuracy"]}
    return {f"{way} {name}": found[way][name] for way in ("t2v", "v2t") for name in ("R1", "R5", "MnR")}


def _of_features(method: Method, data: VideoTextDataModule) -> Figures:
    """Of the test split: its loss, and where clips and texts are compared, cosines of those that belong together."""
    method.eval()
    losses, rows, right, wrong = [], [], [], []
    with torch.inference_mode():
        for batch in data.test_dataloader():
            pairs = _one_clip_for_each_text(batch)
            losses.append(float(method.task.loss(method.backbone, pairs)[0]))
            rows.append(len(pairs.text_index))
            if batch.questions:
                continue
            cosines = _cosines(method, batch)
            right.append(cosines.diagonal())
            wrong.append(cosines[~torch.eye(len(cosines), dtype=torch.bool)])
    figures = {"test loss": sum(loss * count for loss, count in zip(losses, rows, strict=True)) / sum(rows)}
    if right:
        figures["cosine"] = float(torch.cat(right).mean())
        figures["margin"] = figures["cosine"] - float(torch.cat(wrong).mean())
    return figures


def _cosines(method: Method, batch: Batch) -> Tensor:
    """Of clips and captions of a batch (B, B)."""
    video, text = method.backbone.encode_video(batch.clips).pooled, method.backbone.encode_text(batch.words).pooled
    return torch.nn.functional.cosine_similarity(video[:, None], text[None], dim=-1)


def _one_clip_for_each_text(batch: Batch) -> Batch:
    """An evaluation batch as one of training: a row for each text."""
    rows = rows_of_clips(batch)
    return batch._replace(
        clips=batch.clips.select(rows), video_index=batch.video_index[rows], decoded=batch.decoded[rows]
    )
