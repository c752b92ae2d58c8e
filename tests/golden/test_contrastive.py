"""The contrastive loss equals MV-Adapter's in one process, and in two it has the gradient of one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from petl_bench.tasks.losses import contrastive_loss, info_nce
from tests.distributed.pool import Pool, pool
from tests.golden.helpers import Case, assert_gradient, assert_output, golden_files

__all__ = ["pool"]  # pytest finds the fixture by this name


@pytest.mark.parametrize("path", golden_files("mv_cross_en*"))
def test_cross_en(path: Path) -> None:
    """CrossEn without labels is one direction of our loss; with labels it is another (mean over n * n)."""
    case = Case(path)
    similarity = case.tensors["in.sim"].requires_grad_()
    one, columns = torch.tensor(1.0), torch.eye(similarity.shape[1])
    loss = info_nce(similarity, columns, one, torch.arange(len(similarity)))
    loss.backward()
    assert_output(loss, case.tensors["out.loss"], "loss")
    assert_gradient(similarity.grad, case.tensors["grad.in.sim__loss"], "similarity")


def mean_pooled(frames: Tensor, mask: Tensor) -> Tensor:
    """MV-Adapter's video feature: mean of the normalised valid frames (B, T, E), normalised (B, E)."""
    weights = mask[:, :, None].to(frames.dtype)
    frames = F.normalize(frames, dim=-1) * weights
    return F.normalize(frames.sum(dim=1) / weights.sum(dim=1), dim=-1)


def step(text: Tensor, frames: Tensor, mask: Tensor, logit_scale: Tensor) -> dict[str, Tensor]:
    """Our loss and its gradients for this process's rows of the golden batch."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    text, frames = (x.chunk(world)[rank].clone().requires_grad_() for x in (text, frames))
    logit_scale = logit_scale.clone().requires_grad_()
    video = mean_pooled(frames, mask.chunk(world)[rank])
    loss = contrastive_loss(F.normalize(text.squeeze(1), dim=-1), video, logit_scale.exp())
    gradients = torch.autograd.grad(loss, (text, frames, logit_scale))
    return dict(zip(("loss", "t_emb", "v_emb", "logit_scale"), (loss.detach(), *gradients), strict=True))


def golden_batch(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = case.group("in")
    return inputs["t_emb"], inputs["v_emb"], inputs["v_mask"], case.tensors["param.logit_scale"]


@pytest.mark.parametrize("path", golden_files("mv_similarity_loss*"))
def test_one_process(path: Path) -> None:
    case = Case(path)
    ours = step(*golden_batch(case))
    assert_output(ours["loss"], case.tensors["out.loss_1rank"], "loss")
    for name, expected in case.group("grad.1rank").items():
        assert_gradient(ours[name], expected, name)


@pytest.mark.parametrize("path", golden_files("mv_similarity_loss*"))
def test_two_processes(path: Path, pool: Pool) -> None:
    case = Case(path)
    world = len(case.tensors["out.loss_2ranks"])
    assert world == pool.world_size
    ranks = pool.run(step, *golden_batch(case))
    one_process = case.group("grad.1rank")

    loss = torch.stack([ours["loss"] for ours in ranks]).mean()
    assert_output(loss, case.tensors["out.loss_1rank"], "loss")
    scale = torch.stack([ours["logit_scale"] for ours in ranks]).mean()  # as DDP averages
    assert_gradient(scale, one_process["logit_scale"], "logit_scale")
    for name in ("t_emb", "v_emb"):
        # A parameter behind the features gets (sum over processes) / W from DDP, so each row counts 1/W.
        ours = torch.cat([rank[name] for rank in ranks]) / world
        assert_gradient(ours, one_process[name], name)
        # The official gather returns its own slice only, the one-process rows: DDP then makes 1/W of them,
        # while its logit scale gets the whole gradient.
        assert_gradient(ours, case.group("grad.2ranks_local")[name], f"official {name}")
    for official in case.group("grad.2ranks_each")["logit_scale"]:
        assert_gradient(scale, official, "official logit_scale")
