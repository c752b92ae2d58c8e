"""The options of Lightning's trainer: their ranges, and what this machine has to do with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator
from pytorch_lightning.callbacks import Timer

from petl_bench.errors import UsageError
from petl_bench.formats import shown
from petl_bench.machine.cpus import allowed_cpus
from petl_bench.ranges import MOST

#: the least of whole numbers
_LEAST = {
    "num_nodes": 1,
    "fast_dev_run": 0,
    "max_epochs": -1,
    "min_epochs": 0,
    "max_steps": -1,
    "min_steps": 0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "accumulate_grad_batches": 1,
    "reload_dataloaders_every_n_epochs": 0,
}
_ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
_STRATEGIES = ("auto", "ddp")
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16", 32, 16, None)
_PROFILERS = ("simple", "advanced")
#: values that would have no effect, or one that a run cannot keep its promises with
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "barebones": ((False,), "it leaves out what a run is recorded with"),
    "default_root_dir": ((None,), "set --runs_dir"),
    "enable_checkpointing": ((None, True), "runs save themselves (--save_every_n_steps)"),
    "model_registry": ((None,), "adapters are files below --runs_dir"),
    "sync_batchnorm": ((False,), "adapters hold no batch statistics"),
}
#: processes of a CPU that tests may ask for on a small machine
_SMALL = 8


def require_in_range(trainer: Namespace) -> None:
    """Refuses values that training could not work with, or would break a promise with.

    Raises:
        UsageError: naming the option, what it may be and what it is.
    """
    for name, least in _LEAST.items():
        value = trainer[name]
        if value is not None and not least <= value <= MOST:
            raise UsageError(f"trainer.{name} is {shown(value)}: it must be from {least} to {MOST}")
    for name in ("limit_train_batches", "overfit_batches"):
        _require_share_or_number(name, trainer[name])
    for name, (allowed, instead) in _FIXED.items():
        if trainer[name] not in allowed:
            raise UsageError(f"trainer.{name} is {shown(trainer[name])}: leave it out; {instead}")
    _require_one_of(trainer, "accelerator", _ACCELERATORS)
    _require_one_of(trainer, "strategy", _STRATEGIES, "adapters are written from whole parameters")
    _require_one_of(trainer, "precision", _PRECISIONS, "weights that are trained are kept in full precision")
    if isinstance(trainer.profiler, str):
        _require_one_of(trainer, "profiler", _PROFILERS)
    _require_whole_splits(trainer)
    _require_validation_by_count(trainer)
    _require_clipping(trainer)
    _require_duration(trainer.max_time)
    if trainer.max_epochs in (None, -1) and trainer.max_steps == -1 and not trainer.fast_dev_run:
        raise UsageError(f"trainer.max_epochs is {trainer.max_epochs}: give a number, or give trainer.max_steps")


def _require_one_of(trainer: Namespace, name: str, known: tuple[Any, ...], why: str = "") -> None:
    value = trainer[name]
    if not isinstance(value, (str, int, type(None))) or value not in known or isinstance(value, bool):
        names = ", ".join(dict.fromkeys(str(one) for one in known if one is not None))
        raise UsageError(f"trainer.{name} is {shown(value)}: {f'{why}; ' if why else ''}use one of {names}")


def _require_share_or_number(name: str, value: Any) -> None:
    """Lightning's rule: a fraction of the batches, or a whole number of them."""
    if value is None:
        return
    whole = isinstance(value, int) or float(value).is_integer()
    if not (0 <= value <= 1 or (whole and 0 <= value <= MOST)):
        raise UsageError(f"trainer.{name} is {shown(value)}: give a share from 0 to 1, or a whole number of batches")


def _require_whole_splits(trainer: Namespace) -> None:
    """Refuses what Lightning takes to leave samples out of an evaluation."""
    for name in ("limit_val_batches", "limit_test_batches", "limit_predict_batches"):
        value = trainer[name]
        if name == "limit_val_batches" and value == 0:
            continue  # no validation
        if value is not None and str(value) != "1.0":  # 1 is one batch
            raise UsageError(
                f"trainer.{name} {shown(value)}: evaluations count every sample; for a trial set fast_dev_run"
            )


def _require_validation_by_count(trainer: Namespace) -> None:
    value = trainer.val_check_interval
    if value is None:
        return
    if not isinstance(value, (int, float)):
        raise UsageError(
            f"trainer.val_check_interval is {shown(value)}: validation by the clock cannot be repeated; give a number "
            "of batches, or a share of an epoch"
        )
    if isinstance(value, int) or value > 1:
        if not (1 <= value <= MOST and float(value).is_integer()):
            raise UsageError(f"trainer.val_check_interval is {shown(value)}: give a whole number of batches from 1 on")
    elif not 0 < value <= 1:
        raise UsageError(f"trainer.val_check_interval is {shown(value)}: give a share of an epoch, above 0 and up to 1")
    elif trainer.check_val_every_n_epoch is None:
        raise UsageError(
            f"trainer.val_check_interval is {shown(value)} and trainer.check_val_every_n_epoch null: a share needs "
            "epochs; give a number of batches"
        )


def _require_clipping(trainer: Namespace) -> None:
    value, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    if value is not None and not 0 <= value < math.inf:
        raise UsageError(f"trainer.gradient_clip_val is {shown(value)}: it must be a finite number, at least 0")
    if algorithm not in (None, "norm", "value"):
        raise UsageError(f"trainer.gradient_clip_algorithm is {shown(algorithm)}: use norm or value")


def _require_duration(value: Any) -> None:
    """A time limit in one of the forms that Lightning's timer takes."""
    if value is None:
        return
    try:
        seconds = Timer(duration=value).time_remaining()
    except (MisconfigurationException, TypeError, ValueError, OverflowError, AttributeError):
        seconds = None
    if seconds is None or not seconds >= 0:
        raise UsageError(f"trainer.max_time is {shown(value)}: give DD:HH:MM:SS, or a mapping such as {{hours: 2}}")


# --- processes of a machine -------------------------------------------------------------------------------------------


def devices_of(trainer: Namespace) -> int:
    """How many processes of a machine `trainer.devices` stands for, in any of Lightning's forms.

    Raises:
        UsageError: for an accelerator that is not here, or devices that it does not have.
    """
    name, value = trainer.accelerator, trainer.devices
    accelerator = _accelerator(name)
    parse: Callable[[Any], Any] = accelerator.parse_devices
    try:
        found = accelerator.auto_device_count() if value == "auto" else parse(value)
    except (MisconfigurationException, TypeError, ValueError) as error:
        on_cpu = accelerator is CPUAccelerator
        why = "a CPU takes a number of processes, at least 1" if on_cpu else " ".join(str(error).split())
        raise UsageError(f"trainer.devices is {shown(value)}: {why}") from error
    count = len(found) if isinstance(found, list) else found
    if not count:
        raise UsageError(f"trainer.devices is {shown(value)}: at least one is needed")
    cores = allowed_cpus()
    if accelerator is CPUAccelerator and count > max(cores, _SMALL):
        raise UsageError(f"trainer.devices is {shown(value)}: {cores} CPUs may be used here")
    return int(count)


def _accelerator(name: str) -> Any:
    available = [kind for kind in (CUDAAccelerator, MPSAccelerator) if kind.is_available()]
    if name == "cpu" or (name == "auto" and not available):
        return CPUAccelerator
    wanted = {"cuda": [CUDAAccelerator], "mps": [MPSAccelerator]}.get(name, [CUDAAccelerator, MPSAccelerator])
    found = next((kind for kind in available if kind in wanted), None)
    if found is None:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise UsageError(
            f"trainer.accelerator is {name}: no such device is visible here (PyTorch is built {built}); use cpu"
        )
    return found
