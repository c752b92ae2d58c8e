import math

import pytest
import torch
import torch.nn.functional as F

from petl_bench.losses import (
    contrastive_loss,
    gather_index,
    gather_with_grad,
    info_nce,
)


def features(batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text, video = F.normalize(torch.randn(2, batch, 8, generator=generator, dtype=torch.float64), dim=-1)
    return text, video


def loss_by_hand(text: torch.Tensor, video: torch.Tensor, scale: float, ids: list[int]) -> float:
    """Symmetric cross-entropy, a pair at a time; pairs with the same id are no negatives of each other."""
    logits = (scale * text @ video.T).tolist()
    total = 0.0
    for i in range(len(ids)):
        kept = [j for j in range(len(ids)) if j == i or ids[j] != ids[i]]
        total -= logits[i][i] - math.log(sum(math.exp(logits[i][j]) for j in kept))
        total -= logits[i][i] - math.log(sum(math.exp(logits[j][i]) for j in kept))
    return total / (2 * len(ids))


def test_every_other_pair_is_a_negative_without_ids() -> None:
    text, video = features(6)
    loss = contrastive_loss(text, video, torch.tensor(20.0))
    assert loss.item() == pytest.approx(loss_by_hand(text, video, 20.0, list(range(6))), rel=1e-12)


def test_pairs_of_one_video_are_no_negatives() -> None:
    text, video = features(6)
    ids = [4, 7, 4, 9, 7, 4]
    masked = contrastive_loss(text, video, torch.tensor(20.0), torch.tensor(ids))
    assert masked.item() == pytest.approx(loss_by_hand(text, video, 20.0, ids), rel=1e-12)
    assert masked < contrastive_loss(text, video, torch.tensor(20.0))


def test_distinct_ids_change_nothing() -> None:
    text, video = features(6)
    scale = torch.tensor(20.0)
    assert contrastive_loss(text, video, scale, torch.arange(6)) == contrastive_loss(text, video, scale)


def test_a_batch_of_one_video_has_zero_loss_and_gradient() -> None:
    text, video = (x.requires_grad_() for x in features(4))
    loss = contrastive_loss(text, video, torch.tensor(20.0), torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert text.grad is not None
    assert text.grad.eq(0).all()


def test_gradients() -> None:
    text, video = (x.requires_grad_() for x in features(4))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda t, v, s: contrastive_loss(t, v, s, ids), (text, video, scale))


def test_autocast_and_half_precision_do_not_lower_the_loss_precision() -> None:
    text, video = (x.bfloat16() for x in features(16))
    scale = torch.tensor(100.0)
    expected = contrastive_loss(text.float(), video.float(), scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = contrastive_loss(text, video, scale)
    assert actual.dtype == torch.float32
    assert actual == expected


def test_info_nce_of_equal_scores_is_chance() -> None:
    query, gallery = torch.ones(3, 4), torch.ones(10, 4)
    loss = info_nce(query, gallery, torch.tensor(1.0), torch.tensor([0, 5, 9]))
    assert loss.item() == pytest.approx(math.log(10))


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2)
    assert gather_with_grad(x) is x
    assert gather_index(x) is x
