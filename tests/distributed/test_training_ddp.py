"""Two processes with half a batch each give the gradients of one process with all of it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.method import Method
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch, rows_of
from tests.distributed.pool import Pool, pool
from tests.inputs import with_frames

__all__ = ["pool"]  # pytest finds the fixture by this name


def _method() -> Method:
    from methods.full import Full

    torch.manual_seed(0)
    return Full(backbone=CLIP("tiny", None), task=Retrieval()).adapt().double()


def _gradients(rank: int = 0, world: int = 1) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of this process's rows of the batch, averaged over processes as DDP does."""
    method = _method()
    batch = make_batch(method.backbone)
    # Two rows of one video, which are no negatives of each other, fall into different processes.
    batch = batch._replace(video_index=torch.tensor([0, 1, 0, 2]), text_video=torch.tensor([0, 1, 0, 2]))
    rows = slice(rank * 4 // world, (rank + 1) * 4 // world)
    batch = rows_of(batch, rows)
    frames = method.backbone.normalise(batch.clips.frames).double()
    loss, _ = method.task.loss(method.backbone, with_frames(batch, frames))
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    value = loss.detach()
    if world > 1:
        for tensor in (value, *gradients.values()):
            dist.all_reduce(tensor)
            tensor /= world
    return float(value), gradients


def _on_rank() -> tuple[float, dict[str, Tensor]]:
    return _gradients(dist.get_rank(), dist.get_world_size())


def test_gradients_do_not_depend_on_the_number_of_processes(pool: Pool) -> None:
    loss, expected = _gradients()
    for other_loss, gradients in pool.run(_on_rank):
        assert abs(other_loss - loss) < 1e-12
        assert gradients.keys() == expected.keys()
        assert "backbone.logit_scale" in gradients
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, expected[name], rtol=1e-9, atol=1e-12), name


class _Loss(nn.Module):
    """A method's loss as `forward`, which DDP needs."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> Tensor:
        return self.method.task.loss(self.method.backbone, batch)[0]


def _steps_in_chunks(chunk: int, static_graph: bool, checkpointing: bool) -> list[dict[str, Tensor]]:
    """Gradients of two steps under DDP, on this process's half of the batch."""
    method = _method()
    method.task.chunk = chunk
    method.backbone.set_gradient_checkpointing(checkpointing)
    batch = make_batch(method.backbone)
    batch = batch._replace(video_index=torch.tensor([0, 1, 0, 2]), text_video=torch.tensor([0, 1, 0, 2]))
    batch = rows_of(batch, slice(dist.get_rank() * 2, dist.get_rank() * 2 + 2))
    frames = method.backbone.normalise(batch.clips.frames).double()
    model = nn.parallel.DistributedDataParallel(_Loss(method), static_graph=static_graph)
    found = []
    for _ in range(2):  # a static graph is noted in the first one and relied on in the second
        model.zero_grad()
        model(with_frames(batch, frames)).backward()
        found.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    return found


@pytest.mark.parametrize(("static_graph", "checkpointing"), [(False, False), (True, False), (True, True)])
def test_nor_on_chunks(pool: Pool, static_graph: bool, checkpointing: bool) -> None:
    _, expected = _gradients()
    for steps in pool.run(_steps_in_chunks, 1, static_graph, checkpointing):
        for gradients in steps:
            assert gradients.keys() == expected.keys()
            for name, gradient in gradients.items():
                assert torch.allclose(gradient, expected[name], rtol=1e-9, atol=1e-12), name
