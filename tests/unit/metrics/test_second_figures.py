import math

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_bench.metrics.retrieval import (
    ranks_of_any,
    ranks_of_directions,
    text_to_video_ranks,
    video_to_caption_set_ranks,
    video_to_text_ranks,
)
from petl_bench.metrics.scores import scores_of_matrix
from petl_bench.metrics.second_figures import (
    Compared,
    dual_softmax,
    judged_share,
    ndcg,
    ndcg_of_directions,
    qb_norm,
)


def cosines(texts: int, videos: int, seed: int = 0) -> Tensor:
    return torch.rand(texts, videos, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.05


def plain_ranks(scores: Tensor, target: Tensor) -> list[int]:
    return [1 + int((row > row[t]).sum()) for row, t in zip(scores, target, strict=True)]


# --- dual softmax -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_dual_softmax_is_the_formula_of_the_paper_in_both_directions(temperature: float, chunk: int) -> None:
    similarity, pairs = cosines(12, 12), torch.arange(12)
    scores = dual_softmax(scores_of_matrix(similarity), 100.0, temperature, chunk)
    logits = 100 * similarity.double()
    t2v, v2t = logits * (logits / temperature).softmax(0), logits.T * (logits.T / temperature).softmax(0)
    assert text_to_video_ranks(scores, pairs, chunk).ranks.tolist() == plain_ranks(t2v, pairs)
    assert video_to_text_ranks(scores, pairs, chunk).ranks.tolist() == plain_ranks(v2t, pairs)
    assert torch.allclose(scores.text_rows(2, 5).exp(), t2v[2:5])
    assert torch.allclose(scores.video_rows(2, 5).exp(), v2t[2:5])


def test_the_released_rule_over_captions_leaves_video_to_text_as_it_is_and_ours_does_not() -> None:
    similarity, pairs = cosines(40, 40), torch.arange(40)
    logits = 100 * similarity.double()
    plain = plain_ranks(logits.T, pairs)
    of_cosines = similarity.double() * logits.softmax(0)  # as T2VParser has it
    assert plain_ranks(logits * logits.softmax(0), pairs) == plain_ranks(of_cosines, pairs)
    assert plain_ranks((logits * logits.softmax(0)).T, pairs) == plain  # a positive factor for each video
    found = ranks_of_directions(dual_softmax(scores_of_matrix(similarity), 100.0, 1.0), pairs)
    assert found["v2t"].ranks.tolist() != plain


def test_dual_softmax_is_over_all_captions_where_videos_have_several() -> None:
    similarity, text_video = cosines(15, 5), torch.arange(5).repeat_interleave(3)
    scores = dual_softmax(scores_of_matrix(similarity), 100.0, 1.0)
    logits = 100 * similarity.double()
    v2t = (logits.T * logits.T.softmax(0)).reshape(5, 5, 3).amax(2)
    assert text_to_video_ranks(scores, text_video).ranks.tolist() == plain_ranks(logits * logits.softmax(0), text_video)
    assert video_to_caption_set_ranks(scores, text_video).ranks.tolist() == plain_ranks(v2t, torch.arange(5))


def test_a_low_temperature_makes_no_ties() -> None:
    similarity, pairs = cosines(30, 30), torch.arange(30)
    scores = dual_softmax(scores_of_matrix(similarity), 100.0, 0.001)
    assert text_to_video_ranks(scores, pairs).ties == 0


def test_negative_similarities_rank_last_and_alike() -> None:
    similarity = torch.tensor([[-0.3, 0.2, -0.1], [0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])
    found = text_to_video_ranks(dual_softmax(scores_of_matrix(similarity), 100.0, 1.0), torch.arange(3))
    assert (found.ranks[0], found.ties) == (3, 1)  # behind one, and level with one: rounded up


def test_videos_without_a_feature_are_in_no_softmax() -> None:
    similarity, failed = cosines(6, 6), torch.tensor([False, True, False, False, False, False])
    kept = ~failed
    lacking = dual_softmax(scores_of_matrix(similarity, failed), 100.0, 1.0)
    without = dual_softmax(scores_of_matrix(similarity[:, kept]), 100.0, 1.0)
    assert torch.allclose(lacking.text_rows(0, 6)[:, kept], without.text_rows(0, 6))
    assert torch.allclose(lacking.video_rows(0, 6)[kept], without.video_rows(0, 5))
    assert text_to_video_ranks(lacking, torch.arange(6)).ranks[1] == 6


# --- QB-Norm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 256])
def test_qb_norm_is_the_published_example(chunk: int) -> None:
    bank = scores_of_matrix(torch.tensor([[0.5, 0.1, 0.2], [0.4, 0.3, 0.1]]))
    scores = scores_of_matrix(torch.tensor([[0.45, 0.44, 0.1], [0.1, 0.2, 0.5]]))
    found = qb_norm(scores, bank, beta=20, k=1, chunk=chunk).text_rows(0, 2)
    # Only the first video is near to a caption of the bank: the second query's first one is not.
    assert found[0].exp().tolist() == pytest.approx([0.324027, 16.148870, 0.119203], rel=1e-6)
    assert found[1].tolist() == pytest.approx([0.1, 0.2, 0.5])
    assert text_to_video_ranks(scores, torch.tensor([1, 2])).ranks.tolist() == [2, 1]
    assert text_to_video_ranks(qb_norm(scores, bank, 20, 1), torch.tensor([1, 2])).ranks.tolist() == [1, 1]


def test_qb_norm_leaves_failed_videos_out() -> None:
    failed = torch.tensor([False, True, False])
    bank, scores = scores_of_matrix(cosines(5, 3, 1), failed), scores_of_matrix(cosines(4, 3), failed)
    rows = qb_norm(scores, bank, 20, 3).text_rows(0, 4)
    assert (rows[:, 1] == -torch.inf).all()
    assert rows[:, [0, 2]].isfinite().all()


# --- nDCG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "value"), [(1, 1.0), (2, 0.6309), (3, 0.5), (10, 0.2891), (11, 0.0)])
def test_ndcg_of_one_relevant_item(rank: int, value: float) -> None:
    assert ndcg(torch.tensor([rank]), torch.tensor([0]), 1, 10).item() == pytest.approx(value, abs=5e-5)


def ndcg_by_hand(order: list[bool], k: int) -> float:
    gain = sum(1 / math.log2(2 + place) for place, relevant in enumerate(order[:k]) if relevant)
    return gain / sum(1 / math.log2(2 + place) for place in range(min(k, sum(order))))


@pytest.mark.parametrize("chunk", [1, 2, 256])
def test_ndcg_of_several_relevant_items(chunk: int) -> None:
    generator = np.random.default_rng(0)
    text_video = torch.from_numpy(np.concatenate([np.arange(6), generator.integers(0, 6, 60)]))
    similarity = cosines(66, 6, 3)
    found = ndcg_of_directions(Compared(scores_of_matrix(similarity), text_video), 10, chunk)
    own = (text_video[:, None] == torch.arange(6)).numpy()
    by_hand = [ndcg_by_hand(own[(-similarity[:, v]).argsort().numpy(), v].tolist(), 10) for v in range(6)]
    assert found["v2t"].tolist() == pytest.approx(by_hand)
    captions = [ndcg_by_hand(own[t, (-similarity[t]).argsort().numpy()].tolist(), 10) for t in range(66)]
    assert found["t2v"].tolist() == pytest.approx(captions)


def test_ndcg_of_equal_scores_is_that_of_the_expected_place_and_of_lost_queries_zero() -> None:
    constant = Compared(scores_of_matrix(torch.zeros(50, 50)), torch.arange(50))
    assert all(values.sum() == 0 for values in ndcg_of_directions(constant, 10).values())  # the place is 26
    failed = torch.tensor([True, False, False])
    found = ndcg_of_directions(Compared(scores_of_matrix(torch.eye(3), failed), torch.arange(3)), 10)
    assert found["t2v"].tolist() == found["v2t"].tolist() == [0, 1, 1]


# --- judgements -------------------------------------------------------------------------------------------------------


def test_the_first_of_several_targets_counts_unless_it_has_no_feature() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.1, 0.5], [0.1, 0.2, 0.3, 0.4]])
    failed = torch.tensor([True, False, False, False])
    targets = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 0])
    scores = scores_of_matrix(similarity, failed)
    assert ranks_of_any(scores.text_rows, targets, failed, 2).tolist() == [3, 4]
    scores = scores_of_matrix(similarity)
    assert ranks_of_any(scores.text_rows, targets, ~failed & False, 2).tolist() == [1, 4]


def test_the_share_of_judged_items() -> None:
    scores = scores_of_matrix(torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.3]]))
    judged = torch.tensor([[True, False, True], [False, False, True]])
    assert [judged_share(scores.text_rows, judged, k, chunk=1) for k in (1, 2, 10)] == [1.0, 0.5, 0.5]
