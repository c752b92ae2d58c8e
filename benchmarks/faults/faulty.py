"""A method that goes wrong as the environment says, for trials: `--plugins benchmarks.faults.faulty`.

`FAULT` is what happens in rank `FAULT_RANK` (default 0) at the seventh step, in the test, or in a loader process.
"""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.linear import Linear
from petl_bench.data.batch import Batch
from petl_bench.data.datasets import ClipLoader
from petl_bench.runs import draft


class Faulty(Linear):
    """Linear probing, until the fault."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, or the fault."""
        fault = _OF_STEPS.get(os.environ["FAULT"])
        if fault and self.global_step == _STEP and self.global_rank == int(os.environ.get("FAULT_RANK", "0")):
            fault(self)
        return super().training_step(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        """As always, or with weights that give no features."""
        super().on_test_epoch_start()
        if fault := _OF_TESTS.get(os.environ["FAULT"]):
            fault(self)


def _fill(method: Faulty, value: float) -> None:
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.fill_(value)


def _not_a_number(method: Faulty) -> None:
    _fill(method, float("nan"))


def _error(method: Faulty) -> None:
    raise ValueError("this rank fails")


def _killed(method: Faulty) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(method: Faulty) -> None:
    os._exit(9)


def _hang(method: Faulty) -> None:
    time.sleep(10_000)


def _remove(method: Faulty) -> None:
    shutil.rmtree(method.trainer.default_root_dir)


def _full_disk(method: Faulty) -> None:
    with suppress(OSError), (Path(method.trainer.default_root_dir) / "full").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def _no_record(method: Faulty) -> None:
    """Kills the process where it would write its record."""
    draft.write_result = lambda *arguments: _killed(method)


def _clock(method: Faulty) -> None:
    now = time.time
    time.time = lambda: now() - 1e9  # three decades back


_STEP = 6
_OF_STEPS: dict[str, Callable[[Faulty], None]] = {
    "nan": _not_a_number,
    "error": _error,
    "kill": _killed,
    "exit": _exit,
    "hang": _hang,
    "remove": _remove,
    "clock": _clock,
}
_OF_TESTS: dict[str, Callable[[Faulty], None]] = {
    "test nan": _not_a_number,
    "test constant": lambda method: _fill(method, 0.0),
    "test disk full": _full_disk,
    "test no record": _no_record,
}
_OF_LOADERS: dict[str, Callable[[], None]] = {
    "loader dies": lambda: os._exit(3),
    "loader is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "loader hangs": lambda: time.sleep(10_000),
}


def _lose_loaders(fault: Callable[[], None]) -> None:
    """Makes every loader process go wrong at its third clip."""
    decoded, count = ClipLoader._decoded, itertools.count()

    def lost(self: ClipLoader, *arguments: Any) -> Any:
        if next(count) == 2:
            fault()
        return decoded(self, *arguments)

    ClipLoader._decoded = lost  # type: ignore[method-assign]


if os.environ.get("FAULT") in _OF_LOADERS:
    _lose_loaders(_OF_LOADERS[os.environ["FAULT"]])
