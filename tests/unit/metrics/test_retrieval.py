import math
import random
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_bench.errors import DataError, DistributedError, NonFiniteError
from petl_bench.metrics.retrieval import (
    Ranks,
    RetrievalMetric,
    mean_rank,
    median_rank,
    recall_at_k,
    summarise,
    text_to_video_ranks,
    video_to_caption_set_ranks,
    video_to_text_ranks,
)
from petl_bench.metrics.scores import scores_of_features, scores_of_matrix

RANKS = {"t2v": text_to_video_ranks, "v2t": video_to_text_ranks, "v2t_sets": video_to_caption_set_ranks}
DIRECTIONS = list(RANKS)


class RankByHand(NamedTuple):
    rank: int
    tied: bool


def rank_by_hand(target: float, rivals: list[float]) -> RankByHand:
    greater = sum(rival > target for rival in rivals)
    equal = sum(rival == target for rival in rivals)
    return RankByHand(1 + greater + math.ceil(equal / 2), equal > 0)


def ranks_by_hand(
    similarity: np.ndarray, text_video: list[int], failed: list[bool], direction: str
) -> list[RankByHand]:
    """The rule in plain Python, a query at a time; similarity (M, V)."""
    texts, videos = range(similarity.shape[0]), range(similarity.shape[1])
    ranks = []
    if direction == "t2v":
        for t in texts:
            own = text_video[t]
            rivals = [similarity[t, v] for v in videos if v != own and not failed[v]]
            lost = RankByHand(len(videos), False)
            ranks.append(lost if failed[own] else rank_by_hand(similarity[t, own], rivals))
        return ranks
    for v in videos:
        captions = {w: [similarity[t, v] for t in texts if text_video[t] == w] for w in videos}
        others = [w for w in videos if w != v]
        if direction == "v2t":
            rivals, worst = [score for w in others for score in captions[w]], len(texts)
        else:
            rivals, worst = [max(captions[w]) for w in others], len(videos)
        lost = RankByHand(worst, False)
        ranks.append(lost if failed[v] else rank_by_hand(max(captions[v]), rivals))
    return ranks


def hits_by_hand(similarity: np.ndarray, text_video: list[int], failed: list[bool], direction: str) -> list[list[int]]:
    """The three best of the gallery for each query, the lower index first among equals, -1 where there is none."""
    texts, videos = range(similarity.shape[0]), range(similarity.shape[1])
    if direction == "t2v":
        scores = [{v: similarity[t, v] for v in videos if not failed[v]} for t in texts]
    elif direction == "v2t":
        scores = [{t: similarity[t, v] for t in texts} for v in videos]
    else:
        scores = [{w: max(similarity[t, v] for t in texts if text_video[t] == w) for w in videos} for v in videos]
    if direction != "t2v":
        scores = [{} if failed[video] else of_video for video, of_video in enumerate(scores)]
    best = [sorted(of_query, key=lambda item, of=of_query: (-of[item], item))[:3] for of_query in scores]
    return [hits + [-1] * (3 - len(hits)) for hits in best]


def random_pairs(seed: int, max_captions: int) -> tuple[int, list[int]]:
    """A number of videos and the video of each caption, in random order; video 0 has `max_captions`."""
    rng = random.Random(seed)
    videos = rng.randint(2, 14)
    text_video = [0] * max_captions + [v for v in range(1, videos) for _ in range(rng.randint(1, max_captions))]
    rng.shuffle(text_video)
    return videos, text_video


def integer_features(seed: int, texts: int, videos: int, magnitude: int = 2) -> tuple[Tensor, Tensor]:
    """Small integers: products are exact in any order of summation, and ties are many."""
    generator = torch.Generator().manual_seed(seed)
    shape = (texts + videos, 4)
    features = torch.randint(-magnitude, magnitude + 1, shape, generator=generator).float()
    return features[:texts], features[texts:]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("max_captions", [1, 5])
@pytest.mark.parametrize("seed", range(12))
def test_ranks_follow_the_rule(direction: str, max_captions: int, seed: int) -> None:
    videos, text_video = random_pairs(seed, max_captions)
    text, video = integer_features(seed, len(text_video), videos, magnitude=1 + seed % 3 * 3)
    failed = torch.rand(videos, generator=torch.Generator().manual_seed(seed)) < 0.2
    similarity = text.numpy() @ video.numpy().T
    by_hand = ranks_by_hand(similarity, text_video, failed.tolist(), direction)
    expected = [query.rank for query in by_hand]
    hits = hits_by_hand(similarity, text_video, failed.tolist(), direction)

    pairs = torch.tensor(text_video)
    for chunk in (1, 3, 256):
        result = RANKS[direction](scores_of_features(text, video, failed), pairs, chunk)
        assert result.ranks.tolist() == expected
        assert result.hits.tolist() == hits
        assert result.ranks.dtype == result.hits.dtype == torch.int32
        assert result.ties == sum(query.tied for query in by_hand)
        dense = RANKS[direction](scores_of_matrix(torch.from_numpy(similarity), failed), pairs, chunk)
        assert dense.ranks.tolist() == expected
        assert dense.hits.tolist() == hits
        assert (dense.ties, dense.gallery_size) == (result.ties, result.gallery_size)
    assert result.gallery_size == (len(text_video) if direction == "v2t" else videos)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_chunk_size_does_not_matter(direction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    text_video = torch.arange(60).repeat_interleave(3)[torch.randperm(180, generator=generator)]
    text, video = torch.randn(180, 32, generator=generator), torch.randn(60, 32, generator=generator)
    whole = RANKS[direction](scores_of_features(text, video), text_video, chunk=1000)
    assert whole.ties == 0
    for chunk in (1, 7, 64):
        assert RANKS[direction](scores_of_features(text, video), text_video, chunk=chunk).ranks.equal(whole.ranks)


def test_similarities_stay_untouched() -> None:
    similarity = torch.randn(6, 6)
    before = similarity.clone()
    for ranks in RANKS.values():
        ranks(scores_of_matrix(similarity, torch.tensor([True] + 5 * [False])), torch.arange(6))
    assert similarity.equal(before)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_constant_similarities_are_chance_level(direction: str) -> None:
    result = RANKS[direction](scores_of_matrix(torch.zeros(100, 100)), torch.arange(100))
    summary = summarise(result.ranks)
    assert result.ties == 100
    assert summary == {"R1": 0, "R5": 0, "R10": 0, "R50": 0, "MdR": 51, "MnR": 51}


def test_the_two_conventions_differ_only_in_what_they_count() -> None:
    # Video 0's best caption scores 5; video 1's captions score 9 and 8: two captions above it, one set.
    similarity = torch.tensor([[5.0, 0.0], [1.0, 0.0], [9.0, 1.0], [8.0, 1.0]])
    text_video = torch.tensor([0, 0, 1, 1])
    scores = scores_of_matrix(similarity)
    assert video_to_text_ranks(scores, text_video).ranks.tolist() == [3, 1]
    assert video_to_caption_set_ranks(scores, text_video).ranks.tolist() == [2, 1]


def test_a_failed_video_costs_its_own_queries_only() -> None:
    features = torch.eye(4)
    video = features.clone()
    video[2] = torch.nan
    failed = torch.tensor([False, False, True, False])
    pairs = torch.arange(4)
    for direction, ranks in RANKS.items():
        assert ranks(scores_of_features(features, video, failed), pairs).ranks.tolist() == [1, 1, 4, 1], direction
    similarity = features @ video.T
    for direction, ranks in RANKS.items():
        assert ranks(scores_of_matrix(similarity, failed), pairs).ranks.tolist() == [1, 1, 4, 1], direction


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_values_raise(direction: str, value: float) -> None:
    text, video = torch.randn(9, 4), torch.randn(9, 4)
    text[[3, 7], 1] = value
    with pytest.raises(NonFiniteError, match=r"caption features in 2 row\(s\): 3, 7"):
        RANKS[direction](scores_of_features(text, video), torch.arange(9))
    with pytest.raises(NonFiniteError, match=r"video features in 2 row\(s\): 3, 7"):
        RANKS[direction](scores_of_features(video, text), torch.arange(9))
    similarity = torch.randn(9, 9)
    similarity[4, 2] = value
    with pytest.raises(NonFiniteError, match=r"similarities of captions in 1 row\(s\): 4"):
        RANKS[direction](scores_of_matrix(similarity), torch.arange(9))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_overflow_of_finite_features_raises(direction: str) -> None:
    features = torch.ones(3, 4)
    features[1] = 3e38
    with pytest.raises(NonFiniteError, match="similarities"):
        RANKS[direction](scores_of_features(features, features), torch.arange(3), chunk=1)


def test_many_bad_rows_are_counted_and_not_all_listed() -> None:
    text = torch.full((40, 2), torch.nan)
    with pytest.raises(NonFiniteError, match=r"40 row\(s\): 0, 1, 2, 3, 4, \.\.\. \(40 in all\)"):
        text_to_video_ranks(scores_of_features(text, torch.ones(40, 2)), torch.arange(40))


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_precision_settings_do_not_change_ranks(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 256, 512, generator=generator)
    text, video = torch.nn.functional.normalize(noise[0] + 8 * noise[1, :1], dim=-1), noise[1]
    expected = text_to_video_ranks(scores_of_features(text, video), torch.arange(256))
    previous = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = text_to_video_ranks(scores_of_features(text, video), torch.arange(256))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(previous)
    assert actual.ranks.equal(expected.ranks)


@pytest.mark.parametrize("text_video", [[0, 1, 3], [0, -1, 2], [0, 1]])
def test_pairs_have_to_fit(text_video: list[int]) -> None:
    for ranks in RANKS.values():
        with pytest.raises(DataError):
            ranks(scores_of_features(torch.ones(3, 2), torch.ones(3, 2)), torch.tensor(text_video))


@pytest.mark.parametrize("direction", ["v2t", "v2t_sets"])
def test_a_video_without_caption_cannot_be_a_query(direction: str) -> None:
    with pytest.raises(DataError, match="videos 1 have no caption"):
        RANKS[direction](scores_of_features(torch.ones(3, 2), torch.ones(3, 2)), torch.tensor([0, 2, 2]))


def test_summary_of_known_ranks() -> None:
    ranks = torch.tensor([1, 2, 5, 6, 10, 11, 50, 51], dtype=torch.int32)
    assert [recall_at_k(ranks, k) for k in (1, 5, 10, 50)] == [12.5, 37.5, 62.5, 87.5]
    assert median_rank(ranks) == 8
    assert mean_rank(ranks) == 17
    assert summarise(ranks[:3]) == {
        "R1": pytest.approx(100 / 3), "R5": 100, "R10": 100, "R50": 100, "MdR": 2, "MnR": pytest.approx(8 / 3)
    }  # fmt: skip


class Split:
    """A random evaluation: features, pairs and one failed video."""

    def __init__(self, seed: int = 0, max_captions: int = 4) -> None:
        self.videos, text_video = random_pairs(seed, max_captions)
        self.text_video = torch.tensor(text_video)
        self.texts = len(text_video)
        generator = torch.Generator().manual_seed(seed)
        self.text = torch.randn(self.texts, 8, generator=generator)
        self.video = torch.randn(self.videos, 8, generator=generator)
        self.decoded = torch.arange(self.videos) != 1

    def metric(self, video_order: list[int], text_order: list[int], batch: int) -> RetrievalMetric:
        metric = RetrievalMetric(self.videos, self.texts)
        for rows in torch.tensor(video_order).split(batch):
            metric.update_videos(self.video[rows], rows, self.decoded[rows])
        for rows in torch.tensor(text_order).split(batch):
            metric.update_texts(self.text[rows], rows, self.text_video[rows])
        return metric

    def direct(self, direction: str) -> Ranks:
        return RANKS[direction](scores_of_features(self.text, self.video, ~self.decoded), self.text_video)


@pytest.mark.parametrize("seed", range(4))
def test_metric_is_independent_of_order_and_batches(seed: int) -> None:
    split = Split(seed)
    rng = random.Random(seed)
    video_order = rng.sample(range(split.videos), split.videos)
    text_order = rng.sample(range(split.texts), split.texts)
    result = split.metric(video_order, text_order, batch=3).compute()
    expected = {direction: split.direct(direction).ranks for direction in DIRECTIONS}

    assert result.ranks["t2v"].tolist() == expected["t2v"].tolist()
    assert result.ranks["v2t"].tolist() == expected["v2t_sets"].tolist()
    assert result.ranks["v2t_captions"].tolist() == expected["v2t"].tolist()
    of_directions = {"t2v": "t2v", "v2t": "v2t_sets", "v2t_captions": "v2t"}
    assert {way: hits.tolist() for way, hits in result.hits.items()} == {
        way: split.direct(direction).hits.tolist() for way, direction in of_directions.items()
    }
    assert result.text_video.tolist() == split.text_video.tolist()
    assert result.failed_videos == 1
    assert result.metrics["t2v_MnR"] == mean_rank(expected["t2v"])
    assert result.metrics["v2t_R5"] == recall_at_k(expected["v2t_sets"], 5)
    assert result.metrics["v2t_captions_R5"] == recall_at_k(expected["v2t"], 5)
    assert result.metrics["rsum"] == pytest.approx(
        sum(recall_at_k(expected[d], k) for d in ("t2v", "v2t_sets") for k in (1, 5, 10))
    )


def test_one_caption_per_video_has_one_v2t() -> None:
    split = Split(seed=3, max_captions=1)
    result = split.metric([*range(split.videos)], [*range(split.texts)], batch=64).compute()
    assert set(result.ranks) == {"t2v", "v2t"}
    assert result.ranks["v2t"].tolist() == split.direct("v2t").ranks.tolist()
    assert not any(name.startswith("v2t_captions") for name in result.metrics)


def test_metric_starts_afresh_after_reset_and_recomputes_after_update() -> None:
    metric = RetrievalMetric()
    one = torch.ones(1, 2)
    metric.update_videos(one, torch.tensor([0]), torch.tensor([True]))
    metric.update_texts(one, torch.tensor([0]), torch.tensor([0]))
    assert len(metric.compute().ranks["t2v"]) == 1
    metric.update(
        videos=(-one, torch.tensor([1]), torch.tensor([True])),
        texts=(-one, torch.tensor([1]), torch.tensor([1])),
    )
    assert metric.compute().ranks["t2v"].tolist() == [1, 1]
    metric.reset()
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(DataError, match="no videos"),
    ):
        metric.compute()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_metric_keeps_fp32_copies(dtype: torch.dtype) -> None:
    features = torch.randn(5, 4).to(dtype)
    metric = RetrievalMetric()
    metric.update_videos(features, torch.arange(5), torch.ones(5, dtype=torch.bool))
    features.zero_()
    assert metric.video_features[0].dtype == torch.float32
    assert metric.video_features[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("video_order", "text_order", "message"),
    [
        ([0, 1, 2, 2], [0, 1, 2], "video index 2 was evaluated more than once"),
        ([0, 2], [0, 1, 2], "video index 1 of 3 was not evaluated"),
        ([0, 1, 2], [0, 1, 2, 0], "caption index 0 was evaluated more than once"),
        ([0, 1, 2], [1, 2], "caption index 0 of 3 was not evaluated"),
        ([0, 1, 2, 3], [0, 1, 2], r"video index 3 is not in 0\.\.2"),
    ],
)
def test_every_index_exactly_once(video_order: list[int], text_order: list[int], message: str) -> None:
    metric = RetrievalMetric(expected_videos=3, expected_texts=3)
    videos, texts = torch.tensor(video_order), torch.tensor(text_order)
    metric.update_videos(torch.randn(len(videos), 4), videos, torch.ones(len(videos), dtype=torch.bool))
    metric.update_texts(torch.randn(len(texts), 4), texts, texts)
    with pytest.raises(DistributedError, match=message):
        metric.compute()


def test_a_gap_is_found_without_expected_counts() -> None:
    metric = RetrievalMetric()
    index = torch.tensor([0, 2])
    metric.update_videos(torch.randn(2, 4), index, torch.ones(2, dtype=torch.bool))
    metric.update_texts(torch.randn(2, 4), torch.arange(2), index)
    with pytest.raises(DistributedError, match="video index 1 of 3"):
        metric.compute()


def test_a_batch_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="2 features, 3 indices"):
        RetrievalMetric().update_videos(torch.ones(2, 4), torch.arange(3), torch.ones(3, dtype=torch.bool))


def compute_with(features: Tensor) -> float:
    metric = RetrievalMetric()
    index = torch.arange(len(features))
    metric.update_videos(features, index, torch.ones(len(features), dtype=torch.bool))
    metric.update_texts(features, index, index)
    return metric.compute().tie_share


def test_collapsed_features_warn() -> None:
    with pytest.warns(UserWarning, match=r"100\.00 % of the retrieval queries"):
        assert compute_with(torch.ones(8, 4)) == 1.0


def test_distinct_features_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute_with(torch.eye(8)) == 0.0
