"""Trains until the first step is done, by whichever checkout PYTHONPATH names, and prints the seconds of CPU till then.

Half of `benchmarks.perf.starting`; all it knows of a checkout is `petl-bench fit`, whose options it takes.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any
from unittest.mock import patch

from petl_bench.main import main


def first_step(options: list[str]) -> int:
    """Ends the process after the first step, since nothing of what comes later counts."""
    from pytorch_lightning import Callback, Trainer  # after petl_bench, as a command has it

    class Ends(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            print(time.process_time(), flush=True)
            os._exit(0)

    start = Trainer.fit

    def fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks.append(Ends())  # type: ignore[attr-defined]  # Lightning sets it, and declares it nowhere
        start(trainer, *args, **kwargs)

    with patch.object(Trainer, "fit", fit):
        return main(["fit", *options]) or 1


if __name__ == "__main__":
    sys.exit(first_step(sys.argv[1:]))
