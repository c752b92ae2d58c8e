import pytest
import torch
from torch import Tensor

from petl_bench.errors import NonFiniteError
from petl_bench.metrics.reranking import RerankedRetrievalMetric, nearest, second_stage

TEXT_VIDEO = torch.tensor([0, 1, 2, 3])
SIMILARITY = torch.tensor(  # captions x videos
    [[0.9, 0.8, 0.1, 0.2], [0.7, 0.6, 0.5, 0.0], [0.3, 0.2, 0.1, 0.4], [0.0, 0.1, 0.2, 0.3]]
)
NONE_FAILED = torch.zeros(4, dtype=torch.bool)


def test_candidates_of_both_directions() -> None:
    of_texts, of_videos = nearest(SIMILARITY, NONE_FAILED, 2)
    assert of_texts.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
    assert of_videos.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]]


def test_a_failed_video_is_no_candidate() -> None:
    of_texts, of_videos = nearest(SIMILARITY, torch.tensor([True, False, False, False]), 2)
    assert of_texts.int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    assert not of_videos[:, 0].any()
    assert nearest(SIMILARITY, NONE_FAILED, 99)[0].all()


def test_others_follow_the_candidates_in_the_order_of_the_first_stage() -> None:
    candidates = torch.tensor([[True, True, False, False]])
    match = torch.tensor([[-7.0, -500.0, torch.nan, torch.nan]])
    scores = second_stage(torch.tensor([[0.5, 0.25, -1.0, 1.0]]), candidates, match, beta=2.0)
    assert scores[0, :2].tolist() == [-6.0, -499.5]
    assert scores[0].argsort(descending=True).tolist() == [0, 1, 3, 2]


def metric(k: int, beta: float, match: Tensor) -> RerankedRetrievalMetric:
    """Features whose cosines are SIMILARITY (not normalised), and second-stage scores for all pairs."""
    found = RerankedRetrievalMetric(k, beta)
    index = torch.arange(4)
    found.update_videos(torch.eye(4), index, torch.ones(4, dtype=torch.bool))
    found.update_texts(SIMILARITY, index, TEXT_VIDEO)
    found.update_tokens(torch.arange(8).view(4, 2), torch.ones(4, 2, dtype=torch.bool))
    for video in range(4):
        found.update_pairs(index, video, match[:, video])
    return found


def test_ranks_by_hand() -> None:
    # Caption 1 prefers its own video in the second stage; caption 2 has its own not among the candidates.
    match = torch.zeros(4, 4)
    match[1, 1] = 5
    result = metric(2, 1.0, match).compute()
    assert result.hits["t2v"][1].tolist()[0] == 1  # what the second stage put first
    assert result.ranks["t2v"].tolist() == [1, 1, 4, 1]
    # Video 0: captions 0, 1 by cosine. Video 1: caption 1 first. Video 2: candidates 1 and 3, then 0 and 2 tie.
    assert result.ranks["v2t"].tolist() == [1, 1, 4, 2]


def test_beta_zero_ignores_the_cosine_among_candidates() -> None:
    match = -SIMILARITY
    assert metric(2, 0.0, match).compute().ranks["t2v"].tolist() == [2, 1, 4, 2]


def test_an_unscored_candidate_is_an_error() -> None:
    match = torch.zeros(4, 4)
    match[0, 1] = torch.nan
    with pytest.raises(NonFiniteError):
        metric(2, 1.0, match).compute()


def test_candidates_carry_tokens_in_caption_order() -> None:
    found = RerankedRetrievalMetric(2, 1.0)
    found.update_videos(torch.eye(4), torch.arange(4), torch.ones(4, dtype=torch.bool))
    for text in (3, 1, 0, 2):
        one = torch.tensor([text])
        found.update_texts(SIMILARITY[one], one, TEXT_VIDEO[one])
        found.update_tokens(torch.tensor([[text, 10 * text]]), torch.tensor([[True, text > 1]]))
    candidates = found.candidates()
    assert candidates.ids.tolist() == [[0, 0], [1, 10], [2, 20], [3, 30]]
    assert candidates.mask[:, 1].tolist() == [False, False, True, True]
    assert candidates.text.equal(SIMILARITY)
    assert candidates.pairs.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
