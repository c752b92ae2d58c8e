"""Training steps that are measured and not kept, for `petl-bench profile` and `plan`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jsonargparse import Namespace
from lightning_fabric.utilities.apply_func import move_data_to_device
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.lightning_seams import in_precision
from petl_bench.machine.memory import reporting_exhaustion
from petl_bench.method import Method
from petl_bench.runs.clusters import Alone
from petl_bench.runs.cost import AddedMemory, GpuMemory, SavedActivations, synthetic_batch
from petl_bench.runs.frozen import FrozenInBf16
from petl_bench.runs.trainer import CountingTrainer

#: steps before the timed ones, and clips per step where memory is a laptop's
WARM_UP_STEPS, CPU_CLIPS = 1, 2
#: of a trainer of one process that writes nothing, whatever the configuration spreads a run over
_ALONE: dict[str, Any] = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "max_epochs": 1,
    "max_steps": -1,
    "min_epochs": None,
    "min_steps": None,
    "max_time": None,
    "limit_train_batches": None,
    "limit_val_batches": 0,
    "overfit_batches": 0,
    "num_sanity_val_steps": 0,
    "accumulate_grad_batches": 1,
    "fast_dev_run": False,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "profiler": None,
}


class MeasuredSteps:
    """Takes training steps exactly as `fit` does, on synthetic batches.

    Args:
        trainer: options of Lightning's trainer.
        timed: steps that count.

    Raises:
        UsageError: the options do not fit each other, or this machine.
    """

    def __init__(self, trainer: Namespace, timed: int) -> None:
        self._meter = StepMeter(timed)
        own = {"callbacks": [FrozenInBf16(), self._meter], "plugins": [Alone()]}  # also in a job of several tasks
        try:
            self._trainer = CountingTrainer(**{**trainer, **_ALONE, **own})
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error

    @property
    def on_gpu(self) -> bool:
        """Whether the steps are taken on a GPU."""
        return self._trainer.strategy.root_device.type == "cuda"

    def clips(self, asked: int | None, most: int) -> int:
        """How many clips a step has: as asked, all of a GPU's share, or as many as a laptop takes."""
        return asked or (most if self.on_gpu else min(CPU_CLIPS, most))

    @contextmanager
    def evaluating(self, method: Method) -> Iterator[torch.device]:
        """A method as an evaluation has it, on the device that it is on, in the precision of the steps."""
        method.eval()
        with torch.no_grad(), in_precision(self._trainer):
            yield next(method.parameters()).device

    def take(self, method: Method, data: VideoTextDataModule, clips: int) -> dict[str, Any]:
        """What the steps cost."""
        batch = synthetic_batch(method.backbone.spec, clips, data.frames, data.max_words)
        # `fit` copies the next batch while the GPU works; here each step would wait for its own.
        batch = move_data_to_device(batch, self._trainer.strategy.root_device)
        meter = self._meter
        steps: Any = [batch] * (WARM_UP_STEPS + meter.timed)
        with reporting_exhaustion("measure with fewer --clips; petl-bench plan says what a whole batch would take"):
            self._trainer.fit(method.train(), train_dataloaders=DataLoader(steps, batch_size=None))
        return {
            "device": torch.cuda.get_device_name() if self.on_gpu else "cpu",
            "precision": str(self._trainer.precision),
            "clips_per_step": clips,
            "clips_kept": min(clips, method.task.chunk or clips),
            "timed_steps": meter.timed,
            "clips_per_s": clips * meter.timed / meter.seconds,
            "weight_bytes": meter.weight_bytes,
            "saved_activation_bytes": meter.saved_bytes,
            "peak_allocated_bytes": meter.peak_allocated,
            "peak_added_bytes": meter.peak_added,
        }


class StepMeter(Callback):
    """Measures training steps: what the first one saves for its backward pass, and how long the last ones take.

    Attributes:
        timed: how many steps are timed, after `WARM_UP_STEPS`.
        seconds: of the timed steps together.
        weight_bytes: parameters as the steps hold them, see `FrozenInBf16`.
        saved_bytes: activations that the forward pass of one step keeps (see `SavedActivations`).
        peak_allocated: bytes of the GPU's allocator, model included; None on a CPU.
        peak_added: bytes that the steps added to the memory of the process on a CPU, model and libraries not included;
            None on a GPU, and where the system does not tell.
    """

    def __init__(self, timed: int) -> None:
        self.timed = timed
        self.seconds, self._started = 0.0, 0.0
        self.weight_bytes = self.saved_bytes = 0
        self.peak_allocated: int | None = None
        self.peak_added: int | None = None
        self._hooks = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self._memory = GpuMemory(device) if device.type == "cuda" else AddedMemory()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.weight_bytes = sum(parameter.nbytes for parameter in pl_module.parameters())
            self._saved = SavedActivations(pl_module)
            self._hooks.enter_context(self._saved)
        if batch_idx == WARM_UP_STEPS:
            self._started = _now(trainer)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self.saved_bytes:
            self._hooks.close()
            self.saved_bytes = self._saved.bytes

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < WARM_UP_STEPS + self.timed:
            return
        self.seconds = _now(trainer) - self._started
        if isinstance(self._memory, GpuMemory):
            self.peak_allocated, _ = self._memory.bytes()
        else:
            self.peak_added = self._memory.bytes()


def _now(trainer: Trainer) -> float:
    """Seconds, once the device has done all that was asked of it."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)
    return time.perf_counter()
