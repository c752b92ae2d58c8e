"""What a run costs: seconds, clips per second, peak memory."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from petl_bench.data.base import VideoTextDataModule
from petl_bench.optimizers import OptimizerRecipe
from petl_bench.tasks.base import Evaluation


class CostMeter(Callback):
    """Measures the training and the evaluation of one process."""

    def __init__(self) -> None:
        self._train_started = self._train_seconds = 0.0
        self._steps_started, self._steps_seconds, self._steps = 0.0, 0.0, 0
        self._test_started = self._test_seconds = 0.0
        self._peak: dict[str, list[int] | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._steps_started:  # the first step also pays for starting workers and warming up
            self._steps_seconds += now - self._steps_started
            self._steps += 1
        self._steps_started = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps_started = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_seconds = time.perf_counter() - self._train_started
        self._peak = _peak_memory(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test_started = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test_seconds = time.perf_counter() - self._test_started

    def training(self, trainer: Trainer, data: VideoTextDataModule, recipe: OptimizerRecipe) -> dict[str, Any]:
        """The `train` block of the record; clips per second over all processes, without each epoch's first step."""
        on_gpu = trainer.strategy.root_device.type == "cuda"
        clips = self._steps * data.batch_size * trainer.accumulate_grad_batches
        return {
            "epochs": float(trainer.current_epoch),
            "steps": trainer.global_step,
            "global_batch": data.batch_size,
            "world_size": trainer.world_size,
            "precision": str(trainer.precision),
            "optimizer": type(recipe).__name__,
            "wall_s": self._train_seconds,
            "gpu_hours": self._train_seconds * trainer.world_size / 3600 if on_gpu else None,
            "peak_allocated_bytes": self._peak.get("allocated"),
            "peak_reserved_bytes": self._peak.get("reserved"),
            "clips_per_s": clips / self._steps_seconds if self._steps_seconds else None,
            "resumed": 0,
        }

    def evaluation(self, evaluation: Evaluation) -> dict[str, Any]:
        """The `cost` block: reading, encoding and ranking together, as a user waits for them."""
        return {"clips_per_s": evaluation.videos / self._test_seconds, "texts_per_s": None, "ms_per_query": None}


def _peak_memory(trainer: Trainer) -> dict[str, list[int] | None]:
    """Bytes per process: of the GPU's allocator, or on a CPU the process's largest resident size."""
    if trainer.strategy.root_device.type == "cuda":
        device = trainer.strategy.root_device
        mine = torch.tensor(
            [torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)], device=device
        )
    else:
        mine = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0])
    every = trainer.strategy.all_gather(mine).view(-1, 2).tolist()
    allocated, reserved = ([int(row[place]) for row in every] for place in (0, 1))
    return {"allocated": allocated, "reserved": reserved if any(reserved) else None}
