"""Which rows a process reads: a function of seed, epoch, rank and world size only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler


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


class UnpaddedShard(Sampler[int]):
    """Every `world`-th evaluation row: no row is read twice, whatever the number of processes."""

    def __init__(self, rows: int, rank: int, world: int) -> None:
        self.indices = range(rank, rows, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
