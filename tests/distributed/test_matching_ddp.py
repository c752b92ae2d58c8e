"""Matching in two processes: gradients, queue and ranks of one process with everything."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip.model import BLIP
from petl_bench.data.batch import Batch
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.nn.transformer import Memory
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.reranking import Reranking
from petl_bench.testing.samples import make_batch, rows_of
from tests.distributed.pool import Pool, pool
from tests.inputs import with_frames

__all__ = ["pool"]  # pytest finds the fixture by this name

STEPS = 2


class Loss(nn.Module):
    """The loss of a method as a forward pass, as DDP needs it."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> Tensor:
        return self.method.task.loss(self.method.backbone, batch)[0]


def build(**options: Any) -> Method:
    """In double precision, without dropout."""
    torch.manual_seed(0)
    task = MatchingRetrieval(queue_size=6, momentum=0.5, **options)
    return UniAdapter(backbone=BLIP("tiny", None, dropout=0.0), task=task).adapt().double()


def own_rows(batch: Batch, rank: int, world: int) -> Batch:
    return rows_of(batch, slice(rank * 4 // world, (rank + 1) * 4 // world))


def train(rank: int = 0, world: int = 1) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Mean losses, and the gradients and the state after some steps; the queue wraps around."""
    method = build()
    batch = make_batch(method.backbone, frames=3)
    # Two rows of one video fall into different processes.
    batch = own_rows(batch._replace(video_index=torch.tensor([0, 1, 0, 2])), rank, world)
    batch = with_frames(batch, method.backbone.normalise(batch.clips.frames).double())
    # DDP raises here if a trained parameter has no gradient.
    module = nn.parallel.DistributedDataParallel(Loss(method)) if world > 1 else Loss(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for number in range(STEPS):
        method.task.before_step(0.5 * (number + 1), number)
        optimizer.zero_grad()
        loss = module(batch)
        loss.backward()
        optimizer.step()
        method.task.after_step(method.backbone)
        losses.append(loss.detach())
        if world > 1:
            dist.all_reduce(losses[-1])
            losses[-1] /= world
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return [float(loss) for loss in losses], gradients, method.task.training_state()


def train_on_rank() -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    return train(dist.get_rank(), dist.get_world_size())


def test_training_does_not_depend_on_the_number_of_processes(pool: Pool) -> None:
    losses, gradients, state = train()
    assert "task.queue.video" not in state
    assert state["queue.position"].item() == STEPS * 4 % 6
    for other_losses, other_gradients, other_state in pool.run(train_on_rank):
        np.testing.assert_allclose(other_losses, losses, rtol=1e-10)
        assert other_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-7, atol=1e-10)
        assert other_state.keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(other_state[name], tensor, rtol=1e-9, atol=1e-12)


def queue_behind_ddp() -> tuple[float, float]:
    """What a queue that differs between processes holds after a forward pass, and a trained parameter."""
    method, rank = build(), dist.get_rank()
    batch = own_rows(make_batch(method.backbone, frames=3), rank, dist.get_world_size())
    batch = with_frames(batch, method.backbone.normalise(batch.clips.frames).double())
    trained = next(p for p in method.parameters() if p.requires_grad)
    with torch.no_grad():
        cast(MatchingRetrieval, method.task).queue.video.fill_(rank)
        trained.fill_(rank)
    method.forward = lambda batch: method.task.loss(method.backbone, batch)[0]  # type: ignore[method-assign]  # as Lightning
    nn.parallel.DistributedDataParallel(method)(batch)
    return float(cast(MatchingRetrieval, method.task).queue.video.mean()), float(trained.mean())


def test_queues_are_not_sent_between_processes(pool: Pool) -> None:
    """They are the same everywhere by construction; DDP sends what it does not know to be, as the parameters here."""
    assert [queue for queue, _ in pool.run(queue_behind_ddp)] == [0.0, 1.0]
    assert [trained for _, trained in pool.run(queue_behind_ddp)] == [0.0, 0.0]


def negatives_within_rank() -> tuple[list[int], list[int]]:
    """Which captions and videos are drawn, by video index, where only the own rank is asked."""
    method = build(negatives="rank")
    batch = own_rows(make_batch(method.backbone, frames=3), dist.get_rank(), dist.get_world_size())
    batch = with_frames(batch, method.backbone.normalise(batch.clips.frames).double())
    blip, pairs = method.backbone, []
    assert isinstance(blip, BLIP)
    match = blip.match

    def spy(words: Words, memory: Memory) -> Tensor:
        assert memory.rows is not None
        pairs.append((words.ids, memory.tokens[memory.rows]))
        return match(words, memory)

    blip.match = spy  # type: ignore[method-assign]  # a spy
    method.task.loss(method.backbone, batch)
    ((ids, tokens),) = pairs
    texts = [int((batch.words.ids == row).all(1).nonzero()) for row in ids]
    own = method.backbone.encode_video_tokens(batch.clips).memory.tokens
    videos = [int(torch.isclose(own, row).flatten(1).all(1).nonzero()) for row in tokens]
    return texts, videos


def test_negatives_within_a_rank_come_from_its_own_rows(pool: Pool) -> None:
    for texts, videos in pool.run(negatives_within_rank):
        assert texts == [0, 1, 0, 1, 1, 0]
        assert videos == [0, 1, 1, 0, 0, 1]


def evaluate(shards: list[list[int]], rank: int) -> dict[str, Any]:
    """Ranks over the samples of all processes, of which this one holds the given rows."""
    method = build(reranking=Reranking(k=2)).eval()
    batch = make_batch(method.backbone, frames=3)
    batch = with_frames(batch, method.backbone.normalise(batch.clips.frames).double())
    batch = batch._replace(decoded=torch.tensor([True, True, False, True]))
    method.task.expect(4, 4)
    with torch.no_grad():
        if shards[rank]:
            method.task.update(method.backbone, rows_of(batch, shards[rank]))
        method.task.finish(method.backbone)
        return dict(method.task.compute().ranks)


def evaluate_on_rank(shards: list[list[int]]) -> dict[str, Any]:
    return evaluate(shards, dist.get_rank())


def test_ranks_do_not_depend_on_the_number_of_processes(pool: Pool) -> None:
    expected = evaluate([[0, 1, 2, 3]], 0)
    for shards in ([[0, 2], [1, 3]], [[3], [0, 1, 2]], [[], [0, 1, 2, 3]]):
        for ranks in pool.run(evaluate_on_rank, shards):
            assert ranks.keys() == expected.keys()
            for direction, rows in expected.items():
                np.testing.assert_array_equal(ranks[direction], rows)
