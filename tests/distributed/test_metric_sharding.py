"""Retrieval metrics do not depend on how the samples are spread over processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from petl_bench.errors import DistributedError
from petl_bench.metrics.retrieval import RetrievalMetric, RetrievalResult
from tests.distributed.pool import Pool, pool

__all__ = ["pool"]  # pytest finds the fixture by this name


def evaluate(videos: int, captions: int, video_shard: list[int], text_shard: list[int]) -> RetrievalResult:
    """The result over the samples of all processes, of which this one holds the given indices."""
    generator = torch.Generator().manual_seed(videos)
    video = torch.randn(videos, 8, generator=generator)
    text_video = torch.arange(videos).repeat(captions)
    text = video[text_video] + torch.randn(videos * captions, 8, generator=generator)
    decoded = torch.arange(videos) != 3
    metric = RetrievalMetric(videos, videos * captions)
    for rows in torch.tensor(video_shard, dtype=torch.long).split(2):
        if len(rows):
            metric.update_videos(video[rows], rows, decoded[rows])
    for rows in torch.tensor(text_shard, dtype=torch.long).split(3):
        if len(rows):
            metric.update_texts(text[rows], rows, text_video[rows])
    return metric.compute()


def evaluate_shards(
    videos: int, captions: int, video_shards: list[list[int]], text_shards: list[list[int]]
) -> RetrievalResult | str:
    rank = dist.get_rank()
    try:
        return evaluate(videos, captions, video_shards[rank], text_shards[rank])
    except DistributedError as error:
        return str(error)


def split(samples: int, how: str) -> list[list[int]]:
    indices = list(range(samples))
    if how == "interleaved":
        return [indices[0::2], indices[1::2]]
    if how == "uneven":
        return [indices[:2], indices[2:]]
    return [[], indices]


@pytest.mark.parametrize("how", ["interleaved", "uneven", "one process without samples"])
@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("videos", [7, 17])
def test_shards_give_the_result_of_one_process(pool: Pool, videos: int, captions: int, how: str) -> None:
    texts = videos * captions
    expected = evaluate(videos, captions, list(range(videos)), list(range(texts)))
    for actual in pool.run(evaluate_shards, videos, captions, split(videos, how), split(texts, how)):
        assert actual.metrics == expected.metrics
        assert actual.ranks.keys() == expected.ranks.keys()
        for direction, ranks in expected.ranks.items():
            np.testing.assert_array_equal(actual.ranks[direction], ranks)
            np.testing.assert_array_equal(actual.hits[direction], expected.hits[direction])
        assert actual.failed_videos == expected.failed_videos == 1


def test_a_padding_sampler_is_refused_everywhere(pool: Pool) -> None:
    padded = [[0, 2, 4, 6], [1, 3, 5, 0]]  # what DistributedSampler makes of 7 samples
    for message in pool.run(evaluate_shards, 7, 1, padded, split(7, "interleaved")):
        assert message.startswith("video index 0 was evaluated more than once")


def test_a_lost_sample_is_refused_everywhere(pool: Pool) -> None:
    for message in pool.run(evaluate_shards, 7, 1, split(7, "interleaved"), [[0, 2, 4], [1, 3, 5]]):
        assert message.startswith("caption index 6 of 7 was not evaluated")
