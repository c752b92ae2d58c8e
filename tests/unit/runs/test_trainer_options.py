"""Every option of Lightning's trainer: which values are refused, and that none was forgotten."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning import Trainer

from petl_bench.errors import UsageError
from petl_bench.runs.freedoms import ALLOWED
from petl_bench.runs.trainer_options import devices_of, require_in_range

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


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(UsageError, match=r"trainer\.accelerator is mps: no such device"):
        devices_of(options(accelerator="mps"))
