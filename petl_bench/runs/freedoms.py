"""Which of Lightning's classes a run may name: those that keep its promises.

A run promises that its record says what was done, that its adapter gives its figures again, that it ends with the same
weights whether it was interrupted or not, and that its `config.yaml` repeats it. Each class listed here is tested with
all four (`tests/integration/test_callbacks.py`); what changes weights, steps, batches or checkpoints behind the run's
back is refused by name. A user's own classes come with `--plugins`, and the record names them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from importlib.util import find_spec
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import callbacks, loggers, profilers
from pytorch_lightning.plugins import environments

from petl_bench.errors import UsageError

_environments: Any = environments  # which re-exports what is in it without saying so to type checkers
#: by option of the trainer
ALLOWED: dict[str, tuple[type, ...]] = {
    "callbacks": (
        callbacks.DeviceStatsMonitor,
        callbacks.EarlyStopping,
        callbacks.LearningRateMonitor,
        callbacks.ModelCheckpoint,
        callbacks.ModelSummary,
        callbacks.RichModelSummary,
        callbacks.RichProgressBar,
        callbacks.Timer,
        callbacks.TQDMProgressBar,
    ),
    "logger": (loggers.CSVLogger, loggers.TensorBoardLogger, loggers.WandbLogger),
    "profiler": (profilers.AdvancedProfiler, profilers.PassThroughProfiler, profilers.SimpleProfiler),
    "plugins": (
        _environments.KubeflowEnvironment,
        _environments.LightningEnvironment,
        _environments.LSFEnvironment,
        _environments.MPIEnvironment,
        _environments.SLURMEnvironment,
        _environments.TorchElasticEnvironment,
    ),
    "strategy": (),
    "accelerator": (),
}

_WEIGHTS_BESIDE = "adapter and checkpoints hold the weights that are trained, not others beside them: leave it out"
_CHOSEN_BY_METHOD = "what is trained is the method's choice (petl-bench list methods)"
_SAVES = "runs save and read their checkpoints themselves (--save_every_n_steps)"
_PRECISION = "set trainer.precision"
#: why some of the others are refused, and what to do instead
_REASONS = {
    "AsyncCheckpointIO": _SAVES,
    "BackboneFinetuning": _CHOSEN_BY_METHOD,
    "BaseFinetuning": _CHOSEN_BY_METHOD,
    "BasePredictionWriter": "petl-bench predict writes what a task predicts",
    "BatchSizeFinder": "data.batch_size is part of what is measured: set it (petl-bench plan estimates the memory)",
    "DoublePrecision": _PRECISION,
    "EMAWeightAveraging": _WEIGHTS_BESIDE,
    "GradientAccumulationScheduler": "set trainer.accumulate_grad_batches, which tasks can refuse",
    "HalfPrecision": _PRECISION,
    "LambdaCallback": "functions are no configuration: write a callback and name its module with --plugins",
    "LearningRateFinder": "set model.init_args.optimizer.init_args.lr",
    "MixedPrecision": _PRECISION,
    "ModelPruning": "it changes frozen weights, which no adapter holds: leave it out",
    "OnExceptionCheckpoint": _SAVES,
    "PyTorchProfiler": "it fails where a run goes on after its last step: use simple, advanced or petl-bench profile",
    "SpikeDetection": "it leaves batches out of training that a continued run would read: leave it out",
    "StochasticWeightAveraging": _WEIGHTS_BESIDE,
    "ThroughputMonitor": "the record holds clips per second: leave it out",
    "TorchCheckpointIO": _SAVES,
    "TorchSyncBatchNorm": "adapters hold no batch statistics: leave it out",
    "WeightAveraging": _WEIGHTS_BESIDE,
}
#: packages of which one must be there
_NEEDS = {
    "DeviceStatsMonitor": ("psutil",),
    "MPIEnvironment": ("mpi4py",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
}
_NEED_A_LOGGER = ("DeviceStatsMonitor", "LearningRateMonitor")


def require_allowed(trainer: Namespace, plugins: Sequence[str]) -> None:
    """Refuses classes that break a run's promises, or that cannot work here.

    Args:
        trainer: parsed options of the trainer.
        plugins: packages that the user trusts.

    Raises:
        UsageError: naming option and class, why, and what to do.
    """
    for option in ALLOWED:
        for item in _items(trainer[option]):
            path = item.get("class_path")
            if path is None:
                continue
            if reason := refusal(option, path, plugins):
                raise UsageError(reason)
            _require_usable(option, path.rsplit(".", 1)[-1], item.get("init_args") or Namespace(), trainer)


def refusal(option: str, class_path: str, plugins: Sequence[str]) -> str | None:
    """Why a class is refused as a value of an option of the trainer; None if it is allowed."""
    if is_foreign(class_path, plugins) and ALLOWED[option]:
        return None
    module, _, name = class_path.rpartition(".")
    if getattr(sys.modules.get(module), name, None) in ALLOWED[option]:  # those are imported already
        return None
    if name in _REASONS:
        return f"trainer.{option}: {name} is not allowed: {_REASONS[name]}"
    if not ALLOWED[option]:
        return f"trainer.{option}: {name} is not allowed: give a name, as README says, and no class"
    names = ", ".join(kind.__name__ for kind in ALLOWED[option])
    return (
        f"trainer.{option}: {name} is not among those that adapters, records and continued runs are tested with "
        f"({names}); a class of your own comes with --plugins PACKAGE"
    )


def refused_class(message: str, plugins: Sequence[str]) -> str | None:
    """Why a class is refused that a message of jsonargparse complains about: its arguments do not matter then."""
    option = re.match(r'Parser key "trainer\.(\w+)"', message)
    if option is None or option[1] not in ALLOWED:
        return None
    named = re.findall(r"(?:class_path '|parameter \"\w+\" from \")([\w.]+?\.[A-Z]\w+)", message)
    return next((reason for path in named if (reason := refusal(option[1], path, plugins))), None)


def is_foreign(class_path: str, plugins: Sequence[str]) -> bool:
    """Whether a class comes from a package that the user named."""
    return any(f"{class_path}.".startswith(f"{plugin}.") for plugin in plugins)


def foreign_classes(trainer: Namespace, plugins: Sequence[str]) -> list[str]:
    """Class paths of the user's own callbacks, profilers and the like, for the record of a run."""
    given = (item.get("class_path") for option in ALLOWED for item in _items(trainer[option]))
    return sorted({path for path in given if path and is_foreign(path, plugins)})


def plain_defaults(trainer: Namespace) -> None:
    """Puts text in the place of enumerations, which some defaults of Lightning's are and no `config.yaml` can hold."""
    for option in ALLOWED:
        for item in _items(trainer[option]):
            arguments = item.get("init_args") or {}
            for name, value in list(arguments.items()):
                if isinstance(value, Enum):
                    arguments[name] = value.value


def _items(value: Any) -> Iterator[Namespace]:
    """The classes among the values of an option, which may be a list."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, Namespace):
            yield item


def _require_usable(option: str, name: str, arguments: Namespace, trainer: Namespace) -> None:
    packages = _NEEDS.get(name, ())
    if name == "DeviceStatsMonitor" and not _reads_cpu(arguments):
        packages = ()
    if packages and not any(map(find_spec, packages)):
        raise UsageError(
            f"trainer.{option}: {name} needs {' or '.join(packages)}, which is not installed: pip install {packages[0]}"
        )
    if name in _NEED_A_LOGGER and trainer.logger is False:
        raise UsageError(f"trainer.{option}: {name} writes to loggers, and trainer.logger is false: set it to null")


def _reads_cpu(arguments: Namespace) -> bool:
    given = arguments.get("cpu_stats")
    return not torch.cuda.is_available() if given is None else bool(given)
