"""Which rows a process reads: a function of seed, epoch, rank and world size only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from petl_bench.machine.resources import exhausted, exit_code_of, helper_lacked
from petl_bench.machine.signals import STOP, as_helper, starting_helpers


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Training batches of `(epoch, row)` keys. The global batches do not depend on the number of processes.

    The last, incomplete global batch of an epoch is dropped, since a smaller batch has fewer negatives.

    Args:
        rows: of the training split.
        batch_size: global; a multiple of `world`.
        seed: of the order.
        rank: of this process.
        world: number of processes.
        done: says how many batches of the current epoch an interrupted run has had.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world, self.done = rank, world, done
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows // self.batch_size  # of a whole epoch: Lightning counts on from where a run was interrupted

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        local = self.batch_size // self.world
        for batch in range(self.done(), len(self)):
            first = batch * self.batch_size + self.rank * local
            yield [(self.epoch, int(row)) for row in order[first : first + local]]


def as_loader(worker: int) -> None:
    """To be called first in a loader process: `as_helper`, and an end where a thread of its own has nothing to go on.

    Those that hand batches over would lose one, or try again for ever, while the run waits.

    Args:
        worker: torch gives its loaders their number.
    """
    as_helper(worker)
    sys.excepthook = _end_if_exhausted
    Queue._on_queue_feeder_error = staticmethod(_lose)  # type: ignore[attr-defined]  # a hook of the standard library


def _end_if_exhausted(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if exhausted(error):
        os._exit(exit_code_of(error))
    sys.__excepthook__(kind, error, traceback)


def _lose(error: Exception, batch: Any) -> None:
    _end_if_exhausted(type(error), error, error.__traceback__)


class LateLoader(DataLoader[Any]):
    """Starts its processes with the first batch: Lightning asks for an iterator before it has read a checkpoint.

    They leave signals to this process (give `worker_init_fn=as_loader`, too), which heeds them while it waits.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all that anybody needs
        with starting_helpers():
            batches = super().__iter__()
        end = object()
        try:
            while True:
                with STOP.waiting():
                    batch = _next(batches, end)
                if batch is end:
                    return
                yield batch
        finally:
            with STOP.closing():
                del batches


def _next(batches: Iterator[Any], end: object) -> Any:
    """The next batch, or `end`.

    Raises:
        ResourceError: a process of the loader ended for want of what the machine lacks.
    """
    try:
        return next(batches, end)
    except (RuntimeError, EOFError, OSError) as error:
        codes = (process.exitcode for process in getattr(batches, "_workers", ()))
        if lacking := next(filter(None, (helper_lacked(code) for code in codes if code)), None):
            raise lacking from error
        raise


class UnpaddedShard(Sampler[int]):
    """Every `world`-th evaluation row: no row is read twice, whatever the number of processes."""

    def __init__(self, rows: int, rank: int, world: int) -> None:
        self.indices = range(rank, rows, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
