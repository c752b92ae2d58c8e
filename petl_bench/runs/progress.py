"""How far a run is, in plain lines: for a SLURM job's file, CI and pipes, where a bar would be control codes."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar

#: seconds between two lines
_INTERVAL = 30.0


def shows_bars() -> bool:
    """Whether somebody looks on who can be shown a bar: at a terminal, or in a notebook."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


class PlainProgress(ProgressBar):
    """Lines on standard error: after the first step, at the end of every epoch, and every half a minute in between.

    Of an evaluation only the latter. The time left is that of the training, with the validations so far spread over
    the steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shows, self._told = True, 0.0
        self._first_step, self._steps, self._evaluation = 0.0, 0, 0.0

    def disable(self) -> None:
        self._shows = False

    def enable(self) -> None:
        self._shows = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps += 1
        if self._steps == 1:
            self._first_step = time.monotonic()  # what came before was for starting workers and warming up
        if self._steps == 1 or batch_idx + 1 == trainer.num_training_batches or self._is_due():
            self._tell(*self._training(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any, **_: Any) -> None:
        self._evaluated("validation", step[2] + 1, sum(trainer.num_val_batches))

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any, **_: Any) -> None:
        self._evaluated("test", step[2] + 1, sum(trainer.num_test_batches))

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any, **_: Any) -> None:
        self._evaluated("predict", step[2] + 1, sum(trainer.num_predict_batches))

    def _training(self, trainer: Trainer) -> Iterator[str]:
        """Parts of the line after a training step."""
        total, batches = trainer.estimated_stepping_batches, trainer.accumulate_grad_batches
        yield f"epoch {_of(trainer.current_epoch + 1, trainer.max_epochs or -1)}"
        yield f"step {_of(trainer.global_step, total)}"
        if "loss" in trainer.progress_bar_metrics:
            yield f"loss {trainer.progress_bar_metrics['loss']:.4g}"
        yield f"lr {max(group['lr'] for optimizer in trainer.optimizers for group in optimizer.param_groups):.2g}"
        if self._steps > 1:
            each = batches * (time.monotonic() - self._first_step) / (self._steps - 1)
            yield f"{each:.3g} s/step"
            yield from _left(each * (total - trainer.global_step))

    def _begin_evaluation(self) -> None:
        self._evaluation = self._told = time.monotonic()

    def _evaluated(self, what: str, done: int, total: float) -> None:
        if self._is_due():
            each = (time.monotonic() - self._evaluation) / done
            self._tell(what, f"batch {_of(done, total)}", *_left(each * (total - done)))

    def _is_due(self) -> bool:
        return time.monotonic() >= self._told + _INTERVAL

    def _tell(self, *parts: str) -> None:
        self._told = time.monotonic()
        if self._shows:
            print("  ".join(parts), file=sys.stderr, flush=True)


def _of(done: int, total: float) -> str:
    return f"{done}/{int(total)}" if 0 < total < math.inf else str(done)


def _left(seconds: float) -> Iterator[str]:
    """The time left as `1:02:03` or `2:03`; nothing if it is not known."""
    if math.isfinite(seconds):
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        yield f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
