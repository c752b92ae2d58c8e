"""What processes tell each other of a step, and when they ask for the sizes of their batches."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from petl_bench.step_report import StepReport, Told
from petl_bench.tasks import losses
from petl_bench.tasks.losses import equal_batches, gather_index
from tests.distributed.pool import Pool, pool

__all__ = ["pool"]  # pytest finds the fixture by this name


def _told() -> Told:
    rank = dist.get_rank()
    return StepReport(torch.tensor(math.nan if rank else 0.1, dtype=torch.float64), 15 * rank).read()


def test_every_process_knows_of_every_loss_and_signal(pool: Pool) -> None:
    for told in pool.run(_told):
        assert told.losses[0] == 0.1
        assert math.isnan(told.losses[1])
        assert told.signal == 15


def test_the_loss_is_that_of_the_global_batch() -> None:
    assert Told([1.0, 2.5], 0).loss == 1.75


def test_one_process_tells_itself() -> None:
    told = StepReport(torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 2).read()
    assert told == Told([0.5], 2)


def _gathers() -> list[int]:
    calls, gather = [], losses._concatenate
    losses._concatenate = lambda x: calls.append(x.numel()) or gather(x)
    try:
        x = torch.zeros(3, 4)
        with equal_batches():
            gather_index(x)
        gather_index(x)
    finally:
        losses._concatenate = gather
    return calls


def test_sizes_are_asked_for_until_they_are_known(pool: Pool) -> None:
    assert pool.run(_gathers) == [[12, 1, 12]] * pool.world_size
