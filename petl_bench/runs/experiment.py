"""What a run is made of: a method, a data module, options of Lightning's trainer, options of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from petl_bench.data.base import VideoTextDataModule
from petl_bench.method import Method
from petl_bench.ranges import Count, Seed
from petl_bench.runs.earlier import Resolve
from petl_bench.runs.recipe import Recipe


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        seed_everything: of everything that is random in a run.
        runs_dir: folder below which new runs get their folders; results of an adapter go beside it.
        overwrite: start over where a run of this name is complete or interrupted.
        allow_change: what may differ from the interrupted run that is continued; the record will say so.
        save_every_n_steps: batches between two checkpoints inside an epoch; null saves at its end only.
        collective_timeout: seconds after which a process that the others wait for counts as lost.
        zero_shot: test a method that trains without a checkpoint.
        best_on_val: report the best epoch on the validation split (by Rsum, accuracy or MSE) instead of the last one.
        record_words: keep in `ranks.npz` what captions, questions and expected answers say, beside their ids.
        log: tools that a training is watched in: tensorboard, wandb, mlflow, trackio, with commas in between.
        recipe: the packaged configuration whose epochs the record is compared with; found among --config.
        ckpt_path: of `fit`: the checkpoint to go on from; else the adapter.
    """

    seed_everything: Seed = 0
    runs_dir: str = "runs"
    overwrite: bool = False
    allow_change: list[str] = field(default_factory=list)
    save_every_n_steps: Count | None = 500
    collective_timeout: Count = 600
    zero_shot: bool = False
    best_on_val: bool = False
    record_words: bool = True
    log: str | None = None
    recipe: str | None = None
    ckpt_path: str | Path | None = None


@dataclass(frozen=True)
class Experiment:
    """A configuration whose objects are made, and which a run can be made of.

    Attributes:
        method: not yet adapted.
        data: not yet set up.
        trainer: options of Lightning's trainer, as parsed.
        objects: the same with callbacks, loggers and the like made.
        run: options of the run.
        config: all of it, resolved, as `config.yaml` holds it.
        resolve: gives a configuration the defaults of what it does not say.
        recipe: what a training is compared with.
        plugins: packages that the user trusts.
        processes: on all machines together.
    """

    method: Method
    data: VideoTextDataModule
    trainer: Namespace
    objects: Namespace
    run: RunOptions
    config: dict[str, Any]
    resolve: Resolve
    recipe: Recipe | None = None
    plugins: Sequence[str] = ()
    processes: int = 1

    def given(self, option: str) -> list[Any]:
        """The objects that a configuration gives for an option of the trainer, which may be a list of them."""
        value = self.objects[option]
        given = list(value) if isinstance(value, (list, tuple)) else [value]
        return [item for item in given if item is not None and not isinstance(item, bool)]
