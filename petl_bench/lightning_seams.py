"""Every private part of Lightning that is touched, each in a function that says why.

An update of Lightning breaks here, and `tests/unit/runs/test_lightning_seams.py` names what broke. The file lies on the
ground, below `data`, `storage` and `method`, which need parts of it; it imports nothing of petl_bench.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.distributed import _init_dist_connection
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection
from pytorch_lightning.utilities import GradClipAlgorithmType, rank_zero_only
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

# --- what a trainer holds and declares nowhere ------------------------------------------------------------------------


def data_of(trainer: Trainer) -> Any:
    """The data module at work: Lightning sets the attribute, and declares it nowhere."""
    return cast("Any", trainer).datamodule


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a trainer, declared nowhere likewise."""
    return cast("Any", trainer).callbacks


def set_rank(rank: int) -> None:
    """Has messages come from the process of rank 0: Lightning reads whatever variable was there at its import."""
    cast("Any", rank_zero_only).rank = rank


def current_rank() -> int:
    """The rank of this process, as `rank_zero_only` has it: an attribute that its type does not declare."""
    return cast("Any", rank_zero_only).rank


def continue_log(trainer: Trainer, rows: Sequence[Mapping[str, str]]) -> None:
    """Puts rows before those that the first logger, a `CSVLogger`, will write: it deletes the file that it finds."""
    cast("Any", trainer.loggers[0]).experiment.metrics.extend(rows)


# --- where a training is ----------------------------------------------------------------------------------------------


def batches_done(trainer: Trainer) -> int:
    """Batches of the current epoch that are done, also in a process that has just read a checkpoint.

    Nothing public counts them: an epoch that was interrupted goes on after them.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.processed


def validates_now(trainer: Trainer) -> bool:
    """Whether Lightning validates after the step at hand: a checkpoint in between would leave the validation out."""
    loop = cast("Any", trainer.fit_loop)
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def loops_of(trainer: Trainer) -> dict[str, Any]:
    """How far the loops are, as a checkpoint has it: a checkpoint for a moment that has passed needs those of then."""
    return trainer._checkpoint_connector._get_loops_state_dict()


def training_loop_of(trainer: Trainer) -> dict[str, Any]:
    """The one of these that a training changes."""
    return {"fit_loop": trainer.fit_loop.state_dict()}


def checkpoint_of(trainer: Trainer) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` would write, without its barrier: other processes may be gone."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def looks_at_epoch_ends(callback: EarlyStopping) -> bool | None:
    """Whether early stopping looks at the end of every epoch; None leaves it to Lightning. No attribute tells."""
    return callback._check_on_train_epoch_end


# --- steps ------------------------------------------------------------------------------------------------------------


def clip_gradients(
    module: LightningModule, optimizer: torch.optim.Optimizer, value: float | None, algorithm: str | None
) -> None:
    """Clips gradients, also before a fused optimiser in bf16.

    Lightning refuses that for every mixed precision, because a fused optimiser unscales gradients itself. In bf16 no
    loss is scaled, so there is nothing to unscale.
    """
    plugin = module.trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
        super(MixedPrecision, plugin).clip_gradients(
            optimizer, value or 0.0, GradClipAlgorithmType(algorithm or "norm")
        )
        return
    module.clip_gradients(optimizer, value, algorithm or "norm")


def in_precision(trainer: Trainer) -> AbstractContextManager[None]:
    """The precision of a step around what is computed outside of one, which Lightning leaves in full precision."""
    return trainer.precision_plugin.forward_context()


def ddp_ignores(module: LightningModule, names: list[str]) -> None:
    """Has DDP not send these parameters and buffers before each step: every process computes the same ones."""
    cast("Any", module)._ddp_params_and_buffers_to_ignore = names


class _Figures(_ResultCollection):
    """Lightning's figures of a training, each of which moves to the device of what is logged only if it is not there.

    Lightning looks through all attributes of a figure for tensors whenever it is logged.
    """

    def __setitem__(self, key: str, figure: Any) -> None:
        move = figure.to

        def to(device: torch.device) -> Any:
            return figure if figure.is_tensor and figure.value.device == device else move(device)

        figure.to = to
        super().__setitem__(key, figure)


def leave_figures_in_place(trainer: Trainer) -> None:
    """Has logs of training steps take less time; what is logged is the same."""
    trainer.fit_loop.epoch_loop._results = _Figures(training=True)


# --- signals and interrupts -------------------------------------------------------------------------------------------


def leave_signals(trainer: Trainer) -> None:
    """Keeps Lightning's handlers away: that of SIGTERM talks to the other processes, whatever they are doing.

    So nothing has to be asked of them at every step, either, for which the CPU waits for the GPU three times.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a call from a program or a notebook: Ctrl+C raises `KeyboardInterrupt`, and works the next time, too.

    Lightning takes it, ignores SIGINT from then on, and ends the process by `sys.exit(1)`.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


# --- processes --------------------------------------------------------------------------------------------------------


class OfProcesses(Protocol):
    """Who sees to the processes of a run."""

    def starting(self) -> AbstractContextManager[None]:
        """Around the start of the other processes of this machine."""
        ...

    def take(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Takes charge of those that were started."""

    def joining(
        self, environment: ClusterEnvironment, rank: int, world: int, timeout: timedelta
    ) -> AbstractContextManager[Store | None]:
        """Around what waits for all others; gives the store in which they meet, None for torch's own."""
        ...


class DDP(DDPStrategy):
    """Lightning's, whose processes are seen to from their start on, and hold gradients once: in what is sent.

    Its own watchdog kills the first process without a word as soon as another one ends with an error. What it takes to
    hand processes over, and to meet in a store of one's own, are private hooks of the strategy and its launcher.

    Args:
        processes: sees to them.
        timeout: after which a process that others wait for counts as lost.
        static_graph: whether every step uses the same parameters in the same order, which lets DDP work ahead.
    """

    def __init__(self, processes: OfProcesses, timeout: timedelta, static_graph: bool) -> None:
        super().__init__(timeout=timeout, static_graph=static_graph, gradient_as_bucket_view=True)
        self._processes = processes

    def setup_distributed(self) -> None:
        if torch.distributed.is_initialized():  # in the test after a training
            return super().setup_distributed()
        where, timeout = self.cluster_environment, self._timeout
        assert where is not None
        assert timeout is not None
        self.set_world_ranks()
        with self._processes.joining(where, self.global_rank, self.world_size, timeout) as store:
            if store is not None:
                self._process_group_backend = self._get_process_group_backend()
                device = self.root_device if self.root_device.type != "cpu" else None
                _init_dist_connection(
                    where, self._process_group_backend, timeout=timeout, device_id=device, store=store
                )
            super().setup_distributed()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
        self._launcher.sees_to = self._processes


class _Launcher(_SubprocessScriptLauncher):
    sees_to: OfProcesses

    def _call_children_scripts(self) -> None:
        if torch.distributed.is_initialized():  # in the test after a training: the others are there
            return
        with self.sees_to.starting():
            super()._call_children_scripts()
            self.sees_to.take(self.procs)
            self.procs = []  # which leaves Lightning's watchdog nothing to watch


class LocalEnvironment(LightningEnvironment):
    """Lightning's for processes that this one starts, with a port that follows from a function.

    Lightning's takes `MASTER_PORT`, which may be left over from another job; it keeps the port in a private attribute.
    """

    def _port(self) -> int:
        """A port that is free, asked for once."""
        raise NotImplementedError

    @property
    def main_port(self) -> int:
        if self._main_port == -1:
            self._main_port = self._port()
        return self._main_port


class UncheckedSLURM(SLURMEnvironment):
    """Lightning's for the tasks of a step, without its checks of variables, which know fewer cases than ours."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: `petl_bench.runs.clusters.require_processes` has compared what there is."""

    @staticmethod
    def _validate_srun_used() -> None:
        """Nothing: it was."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Nothing: the number of tasks of a machine is known otherwise."""


# --- what Lightning prints --------------------------------------------------------------------------------------------

_SAYS_NOTHING = (
    "LightningCLI's args parameter",  # both ways of passing arguments carry the same ones
    ".*does not have many workers.*",
    ".*isinstance.treespec, LeafSpec.*",
    "Checkpoint directory .* exists and is not empty",
    ".*The number of training batches .* is smaller than the logging interval",
    ".*`ModelCheckpoint.*monitor=None.*",
    # Lightning 2.6 calls instantiate_classes; we call dump(skip_none), the name that all of 4.40 to 4.x know.
    r"\s*By default only one JsonargparseDeprecationWarning",
    r"\s*``instantiate_classes`` was deprecated",
    r"\s*skip_none parameter was deprecated",
    "Experiment logs directory .* exists and is not empty",
    "Total length of `list` across ranks is zero",  # no validation split
    "It is recommended to use `self.log.*sync_dist=True",  # every process has the figures of all samples
    "You have overridden `configure_gradient_clipping`",
    "You have overridden `transfer_batch_to_device`",  # of the method, whatever the data
    "You're resuming from a checkpoint that ended before the epoch ended",  # our loaders begin where it ended
    "You defined a `validation_step` but have no `val_dataloader`",  # profile
)
_ADVERTISES = (
    "💡",
    "`weights_only` was not set",
    "GPU available",
    "TPU available",
    "HPU available",
    "Loading `train_dataloader`",
)
_LOGGERS = (
    *("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"),
    # We read plain values only, whatever it says (petl_bench.storage.checkpoints).
    "pytorch_lightning.trainer.connectors.checkpoint_connector",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block Lightning does not print what says nothing to a user of this suite."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings():
        for message in _SAYS_NOTHING:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.addFilter(_worth_reading)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_worth_reading)


def _worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_ADVERTISES)
