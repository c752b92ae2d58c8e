"""Text-conditioned pooling in two processes: the gradient and the ranks of one process with everything."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from petl_bench.metrics.retrieval import TextConditionedRetrievalMetric
from petl_bench.tasks.losses import text_conditioned_contrastive_loss
from tests.distributed.pool import Pool, pool

__all__ = ["pool"]  # pytest finds the fixture by this name

BATCH, FRAMES = 6, 3


class Towers(nn.Module):
    """Two linear towers and a logit scale; returns the loss, as DDP needs it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.Linear(5, 4, dtype=torch.float64)
        self.video = nn.Linear(7, 4, dtype=torch.float64)
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, text: Tensor, video: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        scale = self.logit_scale.exp()
        return text_conditioned_contrastive_loss(self.text(text), self.video(video), mask, 5.0, scale, ids)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(BATCH, 5, generator=generator, dtype=torch.float64)
    video = torch.randn(BATCH, FRAMES, 7, generator=generator, dtype=torch.float64)
    mask = torch.arange(FRAMES) < torch.tensor([3, 1, 2, 2, 3, 1])[:, None]
    return text, video, mask, torch.tensor([0, 1, 2, 0, 3, 4])


def local_rows(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def ddp_step() -> tuple[float, dict[str, Tensor]]:
    towers = nn.parallel.DistributedDataParallel(Towers())
    loss = towers(*map(local_rows, inputs()))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in towers.module.named_parameters() if p.grad is not None}


def test_gradients_equal_one_process(pool: Pool) -> None:
    towers = Towers()
    expected = towers(*inputs())
    expected.backward()
    outcomes = pool.run(ddp_step)
    assert sum(loss for loss, _ in outcomes) / len(outcomes) == pytest.approx(expected.item(), rel=1e-12)
    for _, gradients in outcomes:
        for name, parameter in towers.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-12)


def metrics(split: bool) -> dict[str, float]:
    text, video, mask, _ = inputs()
    index = torch.arange(BATCH)
    columns = (text[:, :4], video[..., :4], mask, index)
    text, video, mask, index = map(local_rows, columns) if split else columns
    metric = TextConditionedRetrievalMetric(5.0, BATCH, BATCH)
    metric.update_frames(video, mask, index, index >= 0)
    metric.update_texts(text, index, index)
    return metric.compute().metrics


def test_metrics_equal_one_process(pool: Pool) -> None:
    assert pool.run(metrics, True) == [metrics(False)] * 2
