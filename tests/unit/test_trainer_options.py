"""Every option of Lightning's trainer: which values are refused, and that none was forgotten."""

from __future__ import annotations

import inspect
import os
from datetime import timedelta
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning import Trainer

from petl_bench.errors import UsageError
from petl_bench.freedoms import ALLOWED
from petl_bench.trainer_options import cluster_environment, devices_of, require_in_range, require_processes

HUGE = 10**30
NAN, INF = float("nan"), float("inf")
#: values that must be refused by the option's name
REFUSED: dict[str, list[Any]] = {
    "accelerator": ["tpu", "hpu", "foo", "", "None"],
    "strategy": ["fsdp", "ddp_spawn", "deepspeed", "foo", ""],
    "num_nodes": [0, -1, HUGE],
    "precision": ["64-true", "16-true", "bf16-true", "transformer-engine", 64, "64", "8"],
    "fast_dev_run": [-1, HUGE],
    "max_epochs": [-2, HUGE, -1, None],
    "min_epochs": [-1, HUGE],
    "max_steps": [-2, HUGE],
    "min_steps": [-1, HUGE],
    "max_time": ["", "a", "1 hour", "10:00", {"a": 1}, {"hours": -1}, {"days": HUGE}, {"hours": NAN}, {"hours": "a"}],
    "limit_train_batches": [-1, -0.5, 1.5, NAN, INF, HUGE],
    "limit_val_batches": [1, 0.5, -1, NAN],
    "limit_test_batches": [0, 1, 0.5, -1, NAN],
    "limit_predict_batches": [0, 1, 0.5, -1, NAN],
    "overfit_batches": [-1, 1.5, NAN, INF, HUGE],
    "val_check_interval": [0, 0.0, -1, 1.5, NAN, INF, HUGE, "00:00:00:01", {"hours": 1}, timedelta(hours=1)],
    "check_val_every_n_epoch": [0, -1, HUGE],
    "num_sanity_val_steps": [-2, HUGE],
    "log_every_n_steps": [-1, HUGE],
    "enable_checkpointing": [False],
    "accumulate_grad_batches": [0, -1, HUGE],
    "gradient_clip_val": [-1, -0.1, NAN, INF],
    "gradient_clip_algorithm": ["", "foo"],
    "profiler": ["pytorch", "xla", "foo", ""],
    "barebones": [True],
    "sync_batchnorm": [True],
    "reload_dataloaders_every_n_epochs": [-1, HUGE],
    "default_root_dir": ["somewhere", ""],
    "model_registry": ["somewhere", ""],
}
#: any value that their type allows keeps what a run promises
SAFE = {
    *("enable_progress_bar", "enable_model_summary", "deterministic", "benchmark", "inference_mode"),
    *("use_distributed_sampler", "detect_anomaly", "enable_autolog_hparams"),
}
#: looked at by functions of their own
APART = {*ALLOWED, "devices"}


def options(**changed: Any) -> Namespace:
    parameters = inspect.signature(Trainer.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    return Namespace(**{**defaults, "max_epochs": 3, **changed})


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC", "NODE_RANK", "GROUP_RANK"))]:
        monkeypatch.delenv(name)


def test_every_option_is_classified() -> None:
    known = REFUSED.keys() | SAFE | APART
    assert known == inspect.signature(Trainer.__init__).parameters.keys() - {"self"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_a_promise_is_refused_by_its_name(name: str) -> None:
    for value in REFUSED[name]:
        with pytest.raises(UsageError, match=rf"trainer\.{name} "):
            require_in_range(options(**{name: value}))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_epochs": 0},
        {"max_epochs": -1, "max_steps": 5},
        {"max_epochs": None, "max_steps": 5},
        {"max_epochs": None, "fast_dev_run": True},
        {"limit_train_batches": 0.5, "limit_val_batches": 0, "limit_test_batches": 1.0},
        {"limit_train_batches": 3},
        {"overfit_batches": 1},
        {"val_check_interval": 0.5},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
        {"max_time": "00:00:01:00"},
        {"max_time": {"minutes": 1.5}},
        {"max_time": timedelta(hours=1)},
        {"precision": 16, "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
        {"num_sanity_val_steps": -1, "log_every_n_steps": 0, "reload_dataloaders_every_n_epochs": 2},
        {"profiler": "simple", "strategy": "ddp", "accelerator": "gpu"},
    ],
    ids=str,
)
def test_what_keeps_all_promises(changed: dict[str, Any]) -> None:
    require_in_range(options(**changed))


def test_a_share_of_an_epoch_needs_epochs() -> None:
    with pytest.raises(UsageError, match=r"val_check_interval .*check_val_every_n_epoch null"):
        require_in_range(options(val_check_interval=0.5, check_val_every_n_epoch=None))


# --- processes and machines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 0, "-1", "0", "0,1", "1,2", [0], [0, 1], [], "a", "", "1.5", 10**6, str(10**30)])
def test_devices_that_a_cpu_does_not_have(value: Any) -> None:
    with pytest.raises(UsageError, match=r"trainer\.devices is"):
        devices_of(options(accelerator="cpu", devices=value))


@pytest.mark.parametrize(("value", "count"), [("auto", 1), (1, 1), (2, 2), ("2", 2)])
def test_processes_of_a_cpu(value: Any, count: int) -> None:
    assert devices_of(options(accelerator="cpu", devices=value)) == count
    assert require_processes(options(accelerator="cpu", devices=value)) == count


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(UsageError, match=r"trainer\.accelerator is mps: no such device"):
        devices_of(options(accelerator="mps"))


def test_nothing_starts_the_processes_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = options(accelerator="cpu", num_nodes=2)
    with pytest.raises(UsageError, match=r"trainer\.num_nodes is 2, but nothing starts.* torchrun or srun"):
        require_processes(spread)
    monkeypatch.setenv("NODE_RANK", "0")
    assert require_processes(spread) == 2


@pytest.mark.parametrize(
    ("environment", "devices", "told"),
    [
        ({"SLURM_NTASKS": "4"}, 1, "4 tasks .SLURM_NTASKS., but srun did not start this process: put `srun` before"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, 4, "put `srun` before"),
        ({"SLURM_NTASKS": "four"}, 1, "SLURM_NTASKS is four in the environment"),
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"},
            4,
            r"--ntasks=4, which does not say .* use --nodes=1 --ntasks-per-node=4",
        ),
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_NTASKS_PER_NODE": "4"},
            2,
            r"trainer\.devices is 2, but SLURM_NTASKS_PER_NODE is 4: set --trainer\.devices 4",
        ),
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
            2,
            r"trainer\.num_nodes is 1, but SLURM_NNODES is 2",
        ),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4"}, 2, "torchrun started 4 processes, but trainer.devices 2"),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": ""}, 2, "WORLD_SIZE is '' in the environment"),
    ],
)
def test_jobs_whose_tasks_would_be_waited_for(
    environment: dict[str, str], devices: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told):
        require_processes(options(accelerator="cpu", devices=devices))


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, True),  # a batch script of one task: SLURM's own variables may be missing
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, False),  # Lightning sees to it
        ({"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}, False),
    ],
)
def test_jobs_of_one_task(environment: dict[str, str], alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    one = options(accelerator="cpu")
    assert require_processes(one) == 1
    assert bool(cluster_environment(one)) == alone
