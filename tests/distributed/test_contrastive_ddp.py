"""The gathered loss in two processes has the gradient of one process with the whole batch."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from petl_bench.errors import DistributedError
from petl_bench.tasks.losses import contrastive_loss, gather_index, gather_with_grad
from tests.distributed.pool import Pool, pool

__all__ = ["pool"]  # pytest finds the fixture by this name

BATCH = 8
IDS = [0, 1, 2, 3, 0, 1, 4, 0]  # the same videos occur in both halves


class Towers(nn.Module):
    """Two linear towers and a logit scale; returns the loss, as DDP needs it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.Linear(6, 4, dtype=torch.float64)
        self.video = nn.Linear(10, 4, dtype=torch.float64)
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, text: Tensor, video: Tensor, video_ids: Tensor | None) -> Tensor:
        text, video = F.normalize(self.text(text), dim=-1), F.normalize(self.video(video), dim=-1)
        return contrastive_loss(text, video, self.logit_scale.exp(), video_ids)


def inputs(with_ids: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)
    video = torch.randn(BATCH, 10, generator=generator, dtype=torch.float64)
    return text, video, torch.tensor(IDS) if with_ids else None


def local_rows(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def ddp_step(with_ids: bool) -> tuple[float, dict[str, Tensor]]:
    """The local loss and the gradients of a step under DistributedDataParallel."""
    text, video, ids = inputs(with_ids)
    towers = nn.parallel.DistributedDataParallel(Towers())
    loss = towers(local_rows(text), local_rows(video), None if ids is None else local_rows(ids))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in towers.module.named_parameters() if p.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize("with_ids", [False, True])
def test_gradients_equal_one_process(pool: Pool, with_ids: bool) -> None:
    towers = Towers()
    expected = towers(*inputs(with_ids))
    expected.backward()

    outcomes = pool.run(ddp_step, with_ids)
    losses = [loss for loss, _ in outcomes]
    assert sum(losses) / len(losses) == pytest.approx(expected.item(), rel=1e-12)
    for _, gradients in outcomes:
        for name, parameter in towers.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-12)


def gathered_rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rank = dist.get_rank()
    x = torch.tensor([[rank, 10.0 * rank], [rank + 0.5, 7.0]], requires_grad=True)
    gathered = gather_with_grad(x)
    own_gradients: list[Tensor] = []
    gathered.register_hook(own_gradients.append)
    # Every process weighs the rows differently: row i of the gradient is the sum over the processes.
    weights = torch.arange(1.0, 1 + len(gathered))[:, None] * (rank + 1)
    (weights * gathered).sum().backward()
    assert x.grad is not None
    return gathered.detach(), x.grad, own_gradients[0], gather_index(torch.tensor([rank, rank + 5]))


def test_gather_is_in_rank_order_and_sums_gradients(pool: Pool) -> None:
    for rank, (gathered, gradient, own_gradient, index) in enumerate(pool.run(gathered_rows)):
        assert gathered.tolist() == [[0, 0], [0.5, 7], [1, 10], [1.5, 7]]
        assert index.tolist() == [0, 5, 1, 6]
        assert own_gradient[:, 0].tolist() == [(rank + 1) * row for row in (1, 2, 3, 4)]  # left as it was
        total_weight = 3.0  # of two processes: 1 + 2
        assert gradient.tolist() == [[total_weight * (2 * rank + 1)] * 2, [total_weight * (2 * rank + 2)] * 2]


def gathered_in_low_precision() -> tuple[list[torch.dtype], Tensor, Tensor]:
    sent: list[torch.dtype] = []
    gather = dist.all_gather_into_tensor

    def noting(into: Tensor, x: Tensor) -> None:
        sent.append(x.dtype)
        gather(into, x)

    x = torch.tensor([[1 + 2.0**-20 * (1 + dist.get_rank())]], requires_grad=True)
    with patch.object(dist, "all_gather_into_tensor", noting):
        gathered = gather_with_grad(x, sent_as=torch.bfloat16)
    (gathered * (1 + 2.0**-20)).sum().backward()
    assert x.grad is not None
    return sent, gathered.detach(), x.grad


def test_values_are_sent_in_a_lower_precision_and_gradients_are_not(pool: Pool) -> None:
    for sent, gathered, gradient in pool.run(gathered_in_low_precision):
        assert sent == [torch.int64, torch.bfloat16]  # how many, and the values
        assert gathered.dtype == gradient.dtype == torch.float32
        assert gathered.tolist() == [[1.0], [1.0]]
        assert gradient.tolist() == [[2 + 2.0**-19]]


def unequal_batches() -> str:
    features = torch.ones(3 + dist.get_rank(), 2)
    try:
        contrastive_loss(features, features, torch.tensor(1.0))
    except DistributedError as error:
        return str(error)
    return "no error"


def test_unequal_batches_are_refused_everywhere(pool: Pool) -> None:
    for message in pool.run(unequal_batches):
        assert "batch sizes differ between processes: [3, 4]" in message
