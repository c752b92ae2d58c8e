"""Each private part of Lightning that is touched is there, and does what it is touched for."""

from __future__ import annotations

import csv
import inspect
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from petl_bench import lightning_seams as seams

BATCHES, EPOCHS = 3, 2


def rows(count: int) -> DataLoader[Any]:
    ones: Any = torch.ones(count, 1)
    return DataLoader(ones)


class Data(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return rows(BATCHES)

    def val_dataloader(self) -> DataLoader[Any]:
        return rows(1)


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("queue", torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options: Any) -> Trainer:
    usual: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    usual |= {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**usual | options)


class Probe(Callback):
    """Looks at the trainer after every step, and once at its signal handlers."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.validates: list[bool] = []
        self.loops: list[dict[str, Any]] = []
        self.training_loops: list[dict[str, Any]] = []
        self.checkpoint: dict[str, Any] = {}
        self.sigterm: Any = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.done.append(seams.batches_done(trainer))
        self.validates.append(seams.validates_now(trainer))
        self.loops.append(seams.loops_of(trainer))
        self.training_loops.append(seams.training_loop_of(trainer))
        self.checkpoint = seams.checkpoint_of(trainer)
        self.sigterm = signal.getsignal(signal.SIGTERM)


@pytest.fixture(scope="module")
def fitted() -> tuple[Trainer, Probe, Data]:
    """A trainer that has fitted, what was seen meanwhile, and its data."""
    probe, data = Probe(), Data()
    made = trainer(max_epochs=EPOCHS, callbacks=[probe], val_check_interval=2)
    seams.leave_signals(made)
    made.fit(Module(), datamodule=data)
    return made, probe, data


def test_data_of(fitted: tuple[Trainer, Probe, Data]) -> None:
    assert seams.data_of(fitted[0]) is fitted[2]


def test_callbacks_of(fitted: tuple[Trainer, Probe, Data]) -> None:
    assert fitted[1] in seams.callbacks_of(fitted[0])


def test_batches_done(fitted: tuple[Trainer, Probe, Data]) -> None:
    """The batch at hand counts as done when its last hook is called."""
    assert fitted[1].done == [*range(BATCHES)] * EPOCHS or fitted[1].done == [*range(1, BATCHES + 1)] * EPOCHS


def test_validates_now(fitted: tuple[Trainer, Probe, Data]) -> None:
    assert fitted[1].validates == [False, True, False] * EPOCHS


def test_loops_of(fitted: tuple[Trainer, Probe, Data]) -> None:
    progress = [loops["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] for loops in fitted[1].loops]
    assert progress == [*range(1, EPOCHS * BATCHES + 1)]
    assert "epoch_loop.val_loop.batch_progress" in fitted[1].loops[0]["fit_loop"]


def test_training_loop_of(fitted: tuple[Trainer, Probe, Data]) -> None:
    """All else of the loops is what it was after the first step, validations in between or not."""
    first, *_ = fitted[1].loops
    assert [first | loop for loop in fitted[1].training_loops] == fitted[1].loops


class Logs(Module):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log_dict({"loss": loss, "count": float(batch_idx)}, on_epoch=True, on_step=True, batch_size=1 + batch_idx)
        return loss


def test_leave_figures_in_place(tmp_path: Path) -> None:
    written = []
    for in_place in (False, True):
        made = trainer(max_epochs=EPOCHS, logger=CSVLogger(tmp_path, str(in_place)), log_every_n_steps=1)
        if in_place:
            seams.leave_figures_in_place(made)
        torch.manual_seed(0)
        made.fit(Logs(), datamodule=Data())
        written.append(Path(made.log_dir or "", "metrics.csv").read_text(encoding="utf-8"))
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == 1 + EPOCHS * (BATCHES + 1)
    figure = next(iter(made.fit_loop.epoch_loop._results.values()))
    assert figure.to(figure.value.device) is figure
    assert figure.to(torch.device("meta")).value.device.type == "meta"


def test_checkpoint_of(fitted: tuple[Trainer, Probe, Data]) -> None:
    checkpoint = fitted[1].checkpoint
    assert checkpoint["global_step"] == EPOCHS * BATCHES
    assert {"state_dict", "loops", "optimizer_states", "lr_schedulers"} <= checkpoint.keys()


def test_leave_signals(fitted: tuple[Trainer, Probe, Data]) -> None:
    """Nor is anything asked of other processes at every step."""
    assert fitted[1].sigterm == signal.getsignal(signal.SIGTERM)
    assert "_broadcast_sigterm_tensor" in vars(type(fitted[0].fit_loop.epoch_loop))
    assert "_broadcast_sigterm_tensor" in vars(fitted[0].fit_loop.epoch_loop)


@pytest.mark.parametrize("at_epoch_ends", [True, False, None])
def test_looks_at_epoch_ends(at_epoch_ends: bool | None) -> None:
    callback = EarlyStopping("loss", check_on_train_epoch_end=at_epoch_ends)
    assert seams.looks_at_epoch_ends(callback) is at_epoch_ends


def test_set_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    seams.set_rank(1)
    assert seams.current_rank() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_zero_warn("of rank 0 alone")


def test_continue_log(tmp_path: Path) -> None:
    made = trainer(logger=CSVLogger(tmp_path, name="", version=""))
    seams.continue_log(made, [{"step": "0", "loss": "2.0"}])
    made.loggers[0].log_metrics({"loss": 1.0}, step=1)
    made.loggers[0].save()
    with (tmp_path / "metrics.csv").open() as file:
        assert [row["loss"] for row in csv.DictReader(file)] == ["2.0", "1.0"]


@pytest.mark.parametrize("algorithm", ["norm", "value", None])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clip_gradients(precision: Any, algorithm: str | None) -> None:
    """Also of an optimiser that unscales gradients itself, for which Lightning refuses to clip."""
    module = Module()
    module.trainer = trainer(precision=precision)
    assert isinstance(module.trainer.precision_plugin, MixedPrecision) == (precision == "bf16-mixed")
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    if precision == "bf16-mixed":
        optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]  # as fused ones do
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    seams.clip_gradients(module, optimizer, 0.5, algorithm)
    norm = torch.stack([parameter.grad.norm() for parameter in module.parameters() if parameter.grad is not None])
    assert float(norm.max() if algorithm == "value" else norm.norm()) == pytest.approx(0.5, rel=1e-4)


def test_in_precision() -> None:
    for precision, expected in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        made: Any = precision
        with seams.in_precision(trainer(precision=made)):
            assert nn.Linear(1, 1)(torch.ones(1, 1)).dtype == expected


def test_ddp_ignores() -> None:
    """torch reads the attribute when it wraps a module."""
    module = Module()
    seams.ddp_ignores(module, ["queue"])
    assert module._ddp_params_and_buffers_to_ignore == ["queue"]
    assert "_ddp_params_and_buffers_to_ignore" in Path(inspect.getfile(nn.parallel.DistributedDataParallel)).read_text(
        encoding="utf-8"
    )


class Interrupts(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise KeyboardInterrupt


def test_interruptible() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), seams.interruptible():
        trainer(max_epochs=1, callbacks=[Interrupts()]).fit(Module(), datamodule=Data())
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(SystemExit), seams.interruptible():
        sys.exit(3)


class Seen:
    """Sees to processes, and notes what it was called for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def starting(self) -> Iterator[None]:
        self.calls.append("starting")
        yield
        self.calls.append("started")

    def take(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.calls.append("take")
        self.processes = processes

    @contextmanager
    def joining(self, environment: ClusterEnvironment, rank: int, world: int, timeout: timedelta) -> Iterator[None]:
        self.calls.append(f"joining {rank} of {world} within {timeout.total_seconds():.0f}")
        yield
        self.calls.append(f"joined {torch.distributed.is_initialized()}")


class Local(seams.LocalEnvironment):
    asked = 0

    def _port(self) -> int:
        self.asked += 1
        return 45_000 + os.getpid() % 10_000


def test_ddp_is_seen_to() -> None:
    """One process, so that none has to be launched: the hooks are called all the same."""
    seen = Seen()
    strategy = seams.DDP(seen, timedelta(seconds=20), static_graph=True)
    made = trainer(max_epochs=1, strategy=strategy, devices=1, plugins=[Local()])
    made.fit(Module(), datamodule=Data())
    made.validate(Module(), datamodule=Data(), verbose=False)  # for which nobody is launched again
    torch.distributed.destroy_process_group()
    assert seen.calls == ["starting", "take", "started", "joining 0 of 1 within 20", "joined True"]
    assert strategy._ddp_kwargs == {"static_graph": True, "gradient_as_bucket_view": True}


def test_launched_processes_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """And Lightning's own watchdog gets none of them."""
    seen = Seen()
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: args[0])
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # restored afterwards
        monkeypatch.delenv(name)
    launcher = seams._Launcher(Local(), 3, 1)
    launcher.sees_to = seen
    launcher._call_children_scripts()
    assert len(seen.processes) == 2
    assert launcher.procs == []


def test_local_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    environment = Local()
    assert environment.main_port == environment.main_port > 1
    assert environment.asked == 1


def test_unchecked_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would refuse this job: `--ntasks` without `--ntasks-per-node`, and another number of devices."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    seams.UncheckedSLURM().validate_settings(num_devices=2, num_nodes=1)


def say_everything() -> None:
    for text in ("Checkpoint directory x exists and is not empty", "something else"):
        warnings.warn(text, stacklevel=1)
    for text in ("GPU available: False", "something to read"):
        logging.getLogger("pytorch_lightning.utilities.rank_zero").warning(text)


def test_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """And as loud as before afterwards."""
    with pytest.warns(UserWarning, match="something else") as heard, seams.quiet():
        say_everything()
    assert [str(one.message) for one in heard] == ["something else"]
    assert caplog.messages == ["something to read"]
    caplog.clear()
    with pytest.warns(UserWarning, match="something else") as heard:
        say_everything()
    assert len(heard) == len(caplog.messages) == 2


def test_every_seam_has_a_test() -> None:
    public = {name for name, value in vars(seams).items() if getattr(value, "__module__", "") == seams.__name__}
    source = Path(__file__).read_text(encoding="utf-8")
    assert not {name for name in public if not name.startswith("_") and f"seams.{name}" not in source} - {"OfProcesses"}
