"""Metrics of N samples are the same on 1, 2 and 3 processes that share them as the loaders do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.distributed as dist

from petl_bench.backbones.base import TextFeatures
from petl_bench.data.batch import SplitTexts
from petl_bench.data.samplers import UnpaddedShard
from petl_bench.inputs import Words
from petl_bench.metrics.qa import AnswerMetric, exact_match
from petl_bench.metrics.reranking import RerankedRetrievalMetric
from petl_bench.metrics.retrieval import RetrievalMetric
from petl_bench.metrics.second_figures import Compared
from petl_bench.tasks.query_bank import encode_bank
from petl_bench.tasks.second_figures import NDCG, DualSoftmax, QBNorm, Seen, beside
from tests.distributed.pool import Pool, any_pool

__all__ = ["any_pool"]  # pytest finds the fixture by this name

SIZES = [7, 17, 1003]
#: videos of one evaluation batch
BATCH = 5


def features(videos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of videos and of one caption for each, (N, 8); rounded, so that some scores tie."""
    generator = torch.Generator().manual_seed(videos)
    video = torch.randn(videos, 8, generator=generator)
    return video, (2 * (video + torch.randn(videos, 8, generator=generator))).round()


def shard(samples: int, rank: int, world: int) -> list[torch.Tensor]:
    """The batches of one process."""
    return list(torch.tensor(list(UnpaddedShard(samples, rank, world)), dtype=torch.long).split(BATCH))


def retrieval(samples: int, rank: int, world: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    metric = RetrievalMetric(samples, samples)
    fill(metric, samples, rank, world)
    result = metric.compute()
    return result.metrics, result.ranks | {f"{way}_hits": hits for way, hits in result.hits.items()}


def fill(metric: RetrievalMetric, samples: int, rank: int, world: int) -> None:
    video, text = features(samples)
    decoded = torch.arange(samples) != 3
    for rows in shard(samples, rank, world):
        if len(rows):
            metric.update_videos(video[rows], rows, decoded[rows])
            metric.update_texts(text[rows], rows, rows)


def reranking(samples: int, rank: int, world: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Each process scores the pairs of its own videos."""
    metric = RerankedRetrievalMetric(k=4, beta=0.5)
    metric.expected_videos = metric.expected_texts = samples
    video, text = features(samples)
    for rows in shard(samples, rank, world):
        if len(rows):
            metric.update_videos(video[rows], rows, rows != 3)
            metric.update_texts(text[rows], rows, rows)
            metric.update_tokens(rows[:, None], torch.ones(len(rows), 1, dtype=torch.bool))
    candidates = metric.candidates()
    for own in shard(samples, rank, world):
        for one in own.tolist():
            texts = candidates.texts_of(one)
            if len(texts):
                metric.update_pairs(texts, one, -(text[texts] - video[one]).square().sum(dim=1))
    result = metric.compute()
    return result.metrics, result.ranks | {f"{way}_hits": hits for way, hits in result.hits.items()}


def answers(samples: int, rank: int, world: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    vocabulary = ["red", "blue", "left", "étouffée"]
    metric = AnswerMetric(exact_match, vocabulary, samples)
    for batch in shard(samples, rank, world):
        rows = batch.tolist()
        if rows:
            given = [vocabulary[row % 4] if row % 5 else None for row in rows]
            truth = [(vocabulary[row % 3],) if row % 7 else ("nowhere",) for row in rows]
            metric.update(batch, given, truth, ["what" if row % 2 else "how much" for row in rows])
    result = metric.compute()
    arrays = {"scores": result.scores, "types": result.types, "predictions": result.predictions}
    return {"accuracy": result.accuracy, "coverage": result.coverage} | result.per_type, arrays


class Encoder(torch.nn.Module):
    """Stands for a backbone: a caption's feature follows from its tokens."""

    embed_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(50, 8, generator=torch.Generator().manual_seed(1)))

    def encode_text(self, words: Words) -> TextFeatures:
        features = self.weight[words.ids].sum(1)
        return TextFeatures(features, features)


def second_figures(samples: int, rank: int, world: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """With a bank of 600 captions, which the processes encode together."""
    bank = [str(number) for number in range(600)]
    names = tuple(map(str, range(samples)))
    texts = SplitTexts(names, names, lambda: bank, _numbers)
    features = encode_bank(cast("Any", Encoder()), bank, texts, lambda pooled, projected: pooled)
    metric = RetrievalMetric(samples, samples)
    figures = [DualSoftmax(0.5), QBNorm(beta=0.1), NDCG()]
    metric.beside = lambda scores, text_video, similar: beside(
        figures, Seen(Compared(scores, text_video, similar(features)), texts, 1.0, bank)
    )
    fill(metric, samples, rank, world)
    found = metric.compute().second
    values = {
        f"{item['name']} {way} {name}": value
        for item in found
        for way, block in item["directions"].items()
        for name, value in block.items()
    }
    return values, {"bank": features.numpy()}


def _numbers(captions: Sequence[str]) -> Words:
    ids = torch.tensor([[int(caption) % 50, int(caption) // 50] for caption in captions])
    return Words(ids, torch.ones_like(ids, dtype=torch.bool))


def on_rank(evaluate: Any, samples: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    return evaluate(samples, dist.get_rank(), dist.get_world_size())


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("evaluate", [retrieval, reranking, answers, second_figures])
def test_metrics_do_not_depend_on_the_number_of_processes(any_pool: Pool, evaluate: Any, samples: int) -> None:
    expected_metrics, expected_arrays = evaluate(samples, 0, 1)
    for metrics, arrays in any_pool.run(on_rank, evaluate, samples):
        assert metrics == pytest.approx(expected_metrics, rel=1e-7)
        assert arrays.keys() == expected_arrays.keys()
        for name, array in expected_arrays.items():
            np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("evaluate", [retrieval, reranking])
def test_most_queries_find_their_sample(evaluate: Any, samples: int) -> None:
    """The comparison above would hold for a metric that is constant."""
    metrics, ranks = evaluate(samples, 0, 1)
    assert 0 < metrics["t2v_R1"] < 100
    assert ranks["t2v"][3] == samples  # its video could not be read
