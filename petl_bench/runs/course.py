"""How a training will go, as far as is known before its first step, and how it was cut short."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.errors import UsageError
from petl_bench.lightning_seams import callbacks_of, looks_at_epoch_ends
from petl_bench.metrics.table import mode
from petl_bench.storage.untrusted import expanded


class Course(NamedTuple):
    """What the options of a trainer and the size of the data make of a training.

    Attributes:
        batches: of an epoch.
        total: of the whole training.
        first_validation: after how many batches validation runs first; None if it never does.
        every_epoch: whether it runs at the end of every epoch and nowhere else.
    """

    batches: int
    total: int
    first_validation: int | None
    every_epoch: bool


def course_of(trainer: Namespace, batches: int, validates: bool) -> Course:
    """The course of a training.

    Args:
        trainer: options, in their ranges.
        batches: of an epoch that nothing limits.
        validates: whether there is a validation split.

    Raises:
        UsageError: options that leave nothing of the epochs, or do not fit their length.
    """
    whole, batches = batches, _limited(trainer, batches)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) if batches else 0
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    total: float = epochs * batches if batches else 0
    if trainer.max_steps != -1 and steps:
        full, rest = divmod(trainer.max_steps, steps)
        total = min(total, full * batches + rest * trainer.accumulate_grad_batches)
    validates = validates and trainer.limit_val_batches != 0
    if trainer.overfit_batches and validates:
        raise UsageError(
            f"trainer.overfit_batches is {trainer.overfit_batches}: it would validate on some samples only; set "
            "trainer.limit_train_batches, or data.val_videos 0"
        )
    every, interval = trainer.check_val_every_n_epoch, _interval(trainer, batches)
    if batches and trainer.limit_val_batches != 0 and every is not None and interval > batches:
        raise UsageError(
            f"trainer.val_check_interval is {interval}, but an epoch has {batches} batches"
            f"{f' of {whole}' if whole != batches else ''}: give at most that, or set trainer.check_val_every_n_epoch "
            "null to count on over epochs"
        )
    first = interval if every is None else (every - 1) * batches + interval
    runs = validates and batches > 0 and first <= total
    return Course(batches, int(total), first if runs else None, every == 1 and interval == batches)


def _limited(trainer: Namespace, batches: int) -> int:
    """Batches of an epoch, as Lightning counts them."""
    name = "overfit_batches" if trainer.overfit_batches else "limit_train_batches"
    limit = trainer[name]
    if limit is None:
        return batches
    if isinstance(limit, int) or limit > 1:
        return min(batches, int(limit))
    left = int(batches * limit)
    if limit and batches and not left:
        raise UsageError(f"trainer.{name} is {limit}: that is less than one of the {batches} batches of an epoch")
    return left


def _interval(trainer: Namespace, batches: int) -> int:
    """Batches between two validations."""
    given = 1.0 if trainer.val_check_interval is None else trainer.val_check_interval
    return max(1, int(batches * given)) if isinstance(given, float) and given <= 1 else int(given)


def require_validation(course: Course, option: str) -> None:
    """Refuses what chooses by figures that there will be none of.

    Raises:
        UsageError: validation never runs in the course of the training.
    """
    if course.first_validation is None:
        raise UsageError(
            f"{option}, but validation never runs: {course.total} batches are trained, {course.batches} an epoch; see "
            "trainer.limit_val_batches, check_val_every_n_epoch, val_check_interval, max_epochs and max_steps, and "
            "data.val_videos"
        )


def require_monitored(
    callbacks: Sequence[Callback], course: Course, training: Collection[str], validation: Collection[str]
) -> None:
    """Refuses callbacks that would wait for a value that nobody logs.

    Args:
        callbacks: of the run.
        course: of its training.
        training: names logged in every step.
        validation: names logged after every validation.

    Raises:
        UsageError: naming the callback, the value, and what is logged.
    """
    for callback in callbacks:
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or callback.monitor is None:
            continue
        who = f"trainer.callbacks: {type(callback).__name__} monitors {callback.monitor}"
        logged = sorted([*training, *(validation if course.first_validation is not None else ())])
        if callback.monitor in validation:
            require_validation(course, who)
        elif callback.monitor not in training:
            raise UsageError(f"{who}, which is not logged: use one of {', '.join(logged)}")
        if isinstance(callback, EarlyStopping):
            _require_looked_at(callback, course, callback.monitor in validation, who)


def require_own_folder(callbacks: Sequence[Callback], folder: Path) -> None:
    """Refuses checkpoints of the user's in the place of the run's own.

    Raises:
        UsageError: they would be written into the folder of the run.
    """
    for callback in callbacks:
        given = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        if given and expanded(given).resolve() == folder.resolve():
            raise UsageError(
                f"trainer.callbacks: {type(callback).__name__} would write into {folder}, among the run's own "
                "checkpoints: give it another dirpath, or none"
            )


def _require_looked_at(callback: EarlyStopping, course: Course, validates: bool, who: str) -> None:
    """Refuses early stopping that looks when there is nothing to see, or never."""
    at_epoch_ends = looks_at_epoch_ends(callback)
    if at_epoch_ends is None:
        at_epoch_ends = course.every_epoch
    if at_epoch_ends and validates and not course.every_epoch:
        raise UsageError(
            f"{who} at the end of every epoch, but validation does not run in each: set its check_on_train_epoch_end "
            "false"
        )
    if not at_epoch_ends and course.first_validation is None:
        raise UsageError(f"{who} after validation, which never runs: set its check_on_train_epoch_end true")
    if validates and callback.mode != mode(callback.monitor):
        less = mode(callback.monitor) == "min"
        rank_zero_warn(f"{who} with mode {callback.mode}, but {'less' if less else 'more'} is better there")


class EarlyEnds(Callback):
    """Says how a training was cut short, and keeps one that was from going on when it is continued.

    Lightning stops a training by a flag that no checkpoint holds: a run that early stopping had ended, and that was
    killed before its record was written, would train on.

    Attributes:
        limits: by what the training was cut, and where; for the record.
    """

    def __init__(self) -> None:
        self.limits: dict[str, str] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(_has_stopped(callback) for callback in callbacks_of(trainer)):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        planned = trainer.estimated_stepping_batches
        if not trainer.should_stop or trainer.global_step >= planned:
            return
        where = f"step {trainer.global_step}" + (f" of {int(planned)}" if math.isfinite(planned) else "")
        causes = [name for callback in callbacks_of(trainer) if (name := _cause(callback))]
        self.limits = dict.fromkeys(causes or ["stopped"], f"at {where}")


def _has_stopped(callback: Any) -> bool:
    return isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED


def _cause(callback: Any) -> str | None:
    """The name of what stopped a training, if this did."""
    if _has_stopped(callback):
        return f"{type(callback).__name__} on {callback.monitor}"
    if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
        return type(callback).__name__
    return None
