"""How many milliseconds of CPU `petl-bench fit` adds to a bare training step: the checkout is that of PYTHONPATH.

Half of `benchmarks.perf.starting`. It takes options of `petl-bench fit` and a number of turns, and prints the
milliseconds of a bare step and what `fit` adds to it, one pair for each turn. Both train the same method on the same
batch, from a loader that has it in memory. The first turn warms up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import DataLoader

from petl_bench.main import main

#: of one side in a turn
STEPS = 40


def bare_steps(method: Any, batch: Any) -> float:
    """Seconds of CPU that a loop without Lightning takes for a turn."""
    parameters = method.trainable_parameters()
    optimizer, schedule = method.recipe.build(parameters, 10**6)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    began = time.process_time()
    for given in DataLoader([batch] * STEPS, batch_size=None):  # type: ignore[arg-type]  # a list is a data set
        optimizer.zero_grad()
        loss, _ = method.task.loss(method.backbone, given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, method.recipe.clip_norm)
        optimizer.step()
        schedule.step()
    return time.process_time() - began


def overhead(turns: int, options: list[str]) -> int:
    """Prints what all turns took, as JSON, and ends the process."""
    from pytorch_lightning import Callback, Trainer  # after petl_bench, as a command has it

    class Turns(Callback):
        def __init__(self, batch: Any) -> None:
            self.batch, self.began, self.found = batch, 0.0, list[tuple[float, float]]()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (batch_idx + 1) % STEPS:
                return
            fitted = time.process_time() - self.began
            bare = bare_steps(pl_module, self.batch)
            self.found.append((1000 * bare / STEPS, 1000 * (fitted - bare) / STEPS))
            if len(self.found) == 1 + turns:
                print(json.dumps(self.found[1:]), flush=True)
                os._exit(0)
            self.began = time.process_time()

    start = Trainer.fit

    def fit(trainer: Any, *args: Any, **kwargs: Any) -> None:  # a parser makes options of its parameters
        (method,), datamodule = args, kwargs["datamodule"]
        datamodule.prepare_data()
        datamodule.setup("fit")
        method.configure_model()
        batch = next(iter(datamodule.train_dataloader()))
        trainer.callbacks.append(Turns(batch))
        steps: Any = [batch] * (STEPS * (1 + turns))
        datamodule.train_dataloader = lambda: DataLoader(steps, batch_size=None)
        start(trainer, *args, **kwargs)

    with patch.object(Trainer, "fit", fit):
        return main(["fit", *options]) or 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    turns = int(sys.argv.pop())
    sys.exit(overhead(turns, sys.argv[1:]))
