import math

import pytest
import torch
import torch.nn.functional as F

from petl_bench.tasks.losses import (
    answer_losses,
    contrastive_loss,
    gather_index,
    gather_with_grad,
    hard_negatives,
    info_nce,
    momentum_contrastive_loss,
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


def test_momentum_contrastive_loss_by_hand() -> None:
    query, slow = features(2)
    gallery = torch.cat(features(2, seed=1))  # (4, E)
    positives = torch.tensor([[True, False, False, True], [False, True, False, False]])
    scale, alpha = torch.tensor(3.0, dtype=torch.float64), 0.25
    expected = 0.0
    for row in range(2):
        logits, opinion = ((3 * x[row] @ gallery.T).tolist() for x in (query, slow))
        for item in range(4):
            share = math.exp(opinion[item]) / sum(map(math.exp, opinion))
            hard = float(positives[row, item]) / int(positives[row].sum())
            log = logits[item] - math.log(sum(map(math.exp, logits)))
            expected -= (alpha * share + (1 - alpha) * hard) * log / 2
    loss = momentum_contrastive_loss(query, slow, gallery, positives, scale, alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_targets_of_the_momentum_encoder_give_no_gradient() -> None:
    query, slow = (x.requires_grad_() for x in features(2))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    momentum_contrastive_loss(query, slow, slow.detach(), torch.eye(2, dtype=torch.bool), scale, 0.5).backward()
    assert slow.grad is None
    assert query.grad is not None
    assert scale.grad is not None


def test_hard_negatives_follow_the_softmax_without_the_positives() -> None:
    logits, draws = torch.tensor([1.0, 0.0, 9.0, -1.0]), 20_000
    noise = -torch.empty(draws, 4).exponential_(generator=torch.Generator().manual_seed(0)).log()
    same = torch.tensor([False, False, True, False])
    found, exist = hard_negatives(logits.expand(draws, 4), same.expand(draws, 4), noise)
    shares = torch.bincount(found, minlength=4) / draws
    torch.testing.assert_close(shares, logits.masked_fill(same, -torch.inf).softmax(0), rtol=0, atol=0.02)
    assert exist.all()


def test_hard_negatives_say_where_there_are_none() -> None:
    same = torch.tensor([[True, True], [True, False]])
    found, exist = hard_negatives(torch.zeros(2, 2), same, torch.zeros(2, 2))
    assert exist.tolist() == [False, True]
    assert found[1] == 1


def test_answer_losses_by_hand() -> None:
    """The token after each one; padding and what follows the end are left out."""
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids, mask = torch.tensor([[4, 1, 2, 3], [4, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    log = logits.log_softmax(-1)
    expected = [
        sum(-0.9 * log[row, place, ids[row, place + 1]] - 0.1 * log[row, place].mean() for place in range(count))
        for row, count in enumerate((3, 1))
    ]
    found = answer_losses(logits, ids, mask, label_smoothing=0.1)
    torch.testing.assert_close(found, torch.stack([torch.as_tensor(loss) for loss in expected]))
    assert answer_losses(logits.bfloat16(), ids, mask, 0.1).dtype == torch.float32
