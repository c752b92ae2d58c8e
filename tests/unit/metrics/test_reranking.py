from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petl_bench.errors import NonFiniteError
from petl_bench.metrics.reranking import Nearest, RerankedRetrievalMetric, SecondStageScores, nearest
from petl_bench.metrics.retrieval import ranks_of_directions
from petl_bench.metrics.scores import Scores, scores_of_matrix

TEXT_VIDEO = torch.tensor([0, 1, 2, 3])
SIMILARITY = torch.tensor(  # captions x videos
    [[0.9, 0.8, 0.1, 0.2], [0.7, 0.6, 0.5, 0.0], [0.3, 0.2, 0.1, 0.4], [0.0, 0.1, 0.2, 0.3]]
)


def by_matrix(similarity: Tensor, failed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Candidates of captions and those of videos as matrices, each captions x videos."""
    masked = similarity.masked_fill(failed, -torch.inf)
    nobody = torch.zeros_like(similarity, dtype=torch.bool)
    texts, videos = similarity.shape
    of_texts = nobody.scatter(1, masked.topk(min(k, videos), dim=1).indices, True)
    of_videos = nobody.scatter(0, masked.topk(min(k, texts), dim=0).indices, True)
    return of_texts & ~failed, of_videos & ~failed


def dense(found: Nearest, gallery: int) -> Tensor:
    """Candidates as a matrix, queries x gallery."""
    nobody = torch.zeros(len(found.items), gallery, dtype=torch.bool)
    return nobody.scatter(1, found.items, found.exist)


def test_candidates_of_both_directions() -> None:
    of_texts, of_videos = nearest(scores_of_matrix(SIMILARITY), 2)
    assert dense(of_texts, 4).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
    assert dense(of_videos, 4).T.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]]


def test_a_failed_video_is_no_candidate() -> None:
    of_texts, of_videos = nearest(scores_of_matrix(SIMILARITY, torch.tensor([True, False, False, False])), 2)
    assert dense(of_texts, 4).int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    assert not dense(of_videos, 4)[0].any()
    assert dense(nearest(scores_of_matrix(SIMILARITY), 99)[0], 4).all()


def test_others_follow_the_candidates_in_the_order_of_the_first_stage() -> None:
    found = Nearest(torch.tensor([[1, 0]]), torch.tensor([[0.25, 0.5]]))
    stage = SecondStageScores(found, torch.tensor([[-500.0, -7.0]]), beta=2.0)
    scores = stage.instead_of(torch.tensor([[0.5, 0.25, -1.0, 1.0]]), 0)
    assert scores[0, :2].tolist() == [-6.0, -499.5]
    assert scores[0].argsort(descending=True).tolist() == [0, 1, 3, 2]


class Sizes(TorchDispatchMode):
    """The largest number of elements that an operator gave."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(found) if isinstance(x, Tensor))])
        return found


@pytest.mark.parametrize("k", [1, 5, 2000])
@pytest.mark.parametrize("failures", [(), (0, 3, 599)])
def test_ranks_are_those_of_matrices_of_all_pairs(k: int, failures: tuple[int, ...]) -> None:
    """Features of small whole numbers, whose products are exact and often tie."""
    generator = torch.Generator().manual_seed(k)
    videos, texts = 600, 1300
    video = torch.randint(-8, 9, (videos, 8), generator=generator) / 32
    text = torch.randint(-8, 9, (texts, 8), generator=generator) / 32
    text_video = torch.cat([torch.arange(videos), torch.randint(videos, (texts - videos,), generator=generator)])
    match = torch.randn(texts, videos, generator=generator).round(decimals=1)
    failed = torch.zeros(videos, dtype=torch.bool)
    failed[list(failures)] = True
    found = RerankedRetrievalMetric(k, 0.5)
    found.update_videos(video, torch.arange(videos), ~failed)
    found.update_texts(text, torch.arange(texts), text_video)
    found.update_tokens(torch.zeros(texts, 1), torch.ones(texts, 1))
    similarity = text @ video.T
    of_both = by_matrix(similarity, failed, k)
    candidates = found.candidates()
    pairs = torch.zeros(texts, videos, dtype=torch.bool)
    for one in range(videos):
        own = candidates.texts_of(one)
        pairs[own, one] = True
        if len(own):
            found.update_pairs(own, one, match[own, one])
    assert pairs.equal(of_both[0] | of_both[1])
    with Sizes() as sizes:
        result = found.compute()
    assert sizes.most <= max(256 * texts, texts * min(k, videos))
    scores = match + 0.5 * similarity
    t2v, v2t = (
        torch.where(chosen, scores, torch.where(chosen, scores, torch.inf).amin() - 3 + similarity)
        for chosen in of_both
    )
    expected = ranks_of_directions(
        Scores(scores_of_matrix(t2v, failed).text_rows, scores_of_matrix(v2t, failed).video_rows, texts, failed),
        text_video,
    )
    for direction, ranks in expected.items():
        np.testing.assert_array_equal(result.ranks[direction], ranks.ranks.numpy())
        np.testing.assert_array_equal(result.hits[direction], ranks.hits.numpy())


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
    assert [candidates.texts_of(video).tolist() for video in range(4)] == [[0, 1, 2], [0, 1], [1, 3], [2, 3]]
