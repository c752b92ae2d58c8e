"""Takes training steps of whichever checkout PYTHONPATH names, when it is asked to.

Half of `benchmarks.training_step` and of `benchmarks.perf`.

All it knows of a checkout is `petl-bench profile`, so that it runs beside old ones, too. It reads a line of JSON for
each configuration, then one for each turn; `ready`, the seconds of CPU of each turn and, at last, what profile and the
losses said are the lines that it prints.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, TextIO
from unittest.mock import patch

from pytorch_lightning import Callback, LightningModule, Trainer

from petl_bench.main import main

FIT = Trainer.fit


class Turns(Callback):
    """Begins a turn of so many steps when a line comes in.

    Attributes:
        losses: of all steps, to the last bit.
    """

    def __init__(self, steps: int, answers: TextIO) -> None:
        self.steps, self.answers = steps, answers
        self.started, self.losses = 0.0, list[str]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.steps == 0:
            tell(self.answers, ready=True)
            if not sys.stdin.readline():
                sys.exit("nobody asks any more")
            self.started = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]).hex())
        if (batch_idx + 1) % self.steps == 0:
            tell(self.answers, seconds=time.process_time() - self.started)


def tell(answers: TextIO, **what: Any) -> None:
    print(json.dumps(what), file=answers, flush=True)


def profile(config: str, turns: int, steps: int, clips: int, answers: TextIO, options: Sequence[str] = ()) -> None:
    """Takes all turns with one configuration.

    Args:
        config: its name.
        turns: how often it is asked for steps.
        steps: in a turn.
        clips: of a step.
        answers: takes the answers.
        options: of the configuration, as `petl-bench profile` takes them.
    """
    asked, printed = Turns(steps, answers), io.StringIO()

    def fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks.append(asked)  # type: ignore[attr-defined]  # Lightning sets it, and declares it nowhere
        FIT(trainer, *args, **kwargs)

    # profile warms up with a step of its own
    asking = [f"--config={config}", f"--steps={turns * steps - 1}", f"--clips={clips}", "--json"]
    on_cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    with patch.object(Trainer, "fit", fit), redirect_stdout(printed):
        code = main(["profile", *asking, *on_cpu, *options])
    if code:
        sys.exit(code)
    train = json.loads(printed.getvalue())["train"]
    if train is None:
        sys.exit(f"{config} trains nothing")
    tell(answers, saved_and_losses=[train["saved_activation_bytes"], asked.losses])


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what else is printed
        while line := sys.stdin.readline():
            profile(**json.loads(line), answers=channel)
