"""Text-conditioned pooling: the similarity, its loss, its metric and the task option, against one pair at a time."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.errors import NonFiniteError
from petl_bench.metrics.retrieval import (
    TextConditionedRetrievalMetric,
    text_to_video_ranks,
    video_to_caption_set_ranks,
    video_to_text_ranks,
)
from petl_bench.metrics.scores import scores_of_frames, scores_of_matrix
from petl_bench.metrics.similarity import text_conditioned_cosine
from petl_bench.tasks.losses import text_conditioned_contrastive_loss
from petl_bench.tasks.pooling import TextConditionedPooling
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import noise
from tests.inputs import clips_of

TEMPERATURE = 5.0


def features(texts: int, videos: int, frames: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Captions (M, E), frames (V, T, E) and a ragged mask (V, T), in double precision."""
    generator = torch.Generator().manual_seed(seed)
    text = 3 * torch.randn(texts, 6, generator=generator, dtype=torch.float64)
    video = 3 * torch.randn(videos, frames, 6, generator=generator, dtype=torch.float64)
    real = torch.randint(1, frames + 1, (videos, 1), generator=generator)
    return text, video, torch.arange(frames) < real


def cosine_by_hand(text: Tensor, frames: Tensor, mask: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """One pair at a time, with plain Python softmax: (M, V)."""
    result = torch.empty(len(text), len(frames), dtype=text.dtype)
    for i, t in enumerate(text):
        for j, video in enumerate(frames):
            real = [frame for frame, kept in zip(video, mask[j], strict=True) if kept]
            weights = [math.exp(float(t @ frame) / temperature) for frame in real]
            pooled = sum((w / sum(weights) * frame for w, frame in zip(weights, real, strict=True)), torch.zeros(6))
            result[i, j] = t @ pooled / (t.norm() * pooled.norm())
    return result


@pytest.mark.parametrize("temperature", [0.5, 5.0, 100.0])
def test_cosine(temperature: float) -> None:
    text, frames, mask = features(5, 3)
    actual = text_conditioned_cosine(text, frames, mask, temperature)
    torch.testing.assert_close(actual, cosine_by_hand(text, frames, mask, temperature))
    assert actual.abs().max() <= 1


def test_padded_frames_change_nothing() -> None:
    text, frames, mask = features(5, 3)
    other = frames.masked_fill(~mask[..., None], torch.nan)
    expected = text_conditioned_cosine(text, frames, mask, TEMPERATURE)
    torch.testing.assert_close(text_conditioned_cosine(text, other, mask, TEMPERATURE), expected)


def test_gradients() -> None:
    text, frames, mask = features(3, 2)
    inputs = (text.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(lambda t, f: text_conditioned_cosine(t, f, mask, TEMPERATURE), inputs)


@pytest.mark.parametrize("ids", [None, [4, 7, 4, 9]])
def test_loss(ids: list[int] | None) -> None:
    text, frames, mask = features(4, 4)
    logits = 20 * cosine_by_hand(text, frames, mask)
    total = 0.0
    for i in range(4):
        rivals = [j for j in range(4) if j == i or ids is None or ids[j] != ids[i]]
        for scores in (logits[i], logits[:, i]):
            total -= float(scores[i]) - math.log(sum(math.exp(float(scores[j])) for j in rivals))
    video_ids = None if ids is None else torch.tensor(ids)
    loss = text_conditioned_contrastive_loss(text, frames, mask, TEMPERATURE, torch.tensor(20.0), video_ids)
    assert loss.item() == pytest.approx(total / 8, rel=1e-9)


def evaluated(
    text: Tensor, frames: Tensor, mask: Tensor, text_video: Tensor, decoded: Tensor, batch: int
) -> TextConditionedRetrievalMetric:
    """A metric that has seen everything, in shuffled batches."""
    metric = TextConditionedRetrievalMetric(TEMPERATURE, len(frames), len(text))
    for index in torch.randperm(len(frames), generator=torch.Generator().manual_seed(0)).split(batch):
        metric.update_frames(frames[index], mask[index], index, decoded[index])
    for index in torch.randperm(len(text), generator=torch.Generator().manual_seed(1)).split(batch):
        metric.update_texts(text[index], index, text_video[index])
    return metric


@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("failed", [[], [2, 5]])
def test_metric_ranks_by_the_pairwise_similarities(captions: int, failed: list[int]) -> None:
    text, frames, mask = features(8 * captions, 8, seed=captions)
    text_video = torch.arange(8).repeat(captions)
    decoded = torch.ones(8, dtype=torch.bool)
    decoded[failed] = False
    mask = mask & decoded[:, None]  # a video that could not be read has no real frame
    similarity = cosine_by_hand(text, frames, mask | ~decoded[:, None]).float()

    result = evaluated(text, frames, mask, text_video, decoded, 3).compute()
    scores = scores_of_matrix(similarity, ~decoded)
    expected: dict[str, Any] = {"t2v": text_to_video_ranks(scores, text_video)}
    by_caption = video_to_text_ranks(scores, text_video)
    expected["v2t"] = by_caption
    if captions > 1:
        expected["v2t"] = video_to_caption_set_ranks(scores, text_video)
        expected["v2t_captions"] = by_caption
    assert {name: ranks.tolist() for name, ranks in result.ranks.items()} == {
        name: ranks.ranks.tolist() for name, ranks in expected.items()
    }
    assert {name: hits.tolist() for name, hits in result.hits.items()} == {
        name: ranks.hits.tolist() for name, ranks in expected.items()
    }


def test_a_clip_and_its_reverse_tie_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    text, frames = torch.randn(40, 64, generator=generator), torch.randn(20, 12, 64, generator=generator)
    lengths = torch.randint(1, 13, (20,), generator=generator)
    mask = torch.arange(12) < lengths[:, None]
    back = torch.stack([torch.cat([f[:n].flip(0), f[n:]]) for f, n in zip(frames, lengths.tolist(), strict=True)])
    both, both_mask = torch.cat([frames, back]), mask.repeat(2, 1)
    as_they_come = text_conditioned_cosine(text, both, both_mask, TEMPERATURE)
    assert not torch.equal(as_they_come[:, :20], as_they_come[:, 20:]), "nothing is rounded: this test shows nothing"
    scores = scores_of_frames(text, both, both_mask, TEMPERATURE)
    rows, columns = scores.text_rows(0, 40), scores.video_rows(0, 40)
    torch.testing.assert_close(rows, as_they_come)
    assert torch.equal(rows[:, :20], rows[:, 20:])
    assert torch.equal(columns[:20], columns[20:])


def test_metric_refuses_features_that_are_not_finite() -> None:
    text, frames, mask = features(4, 4)
    frames[1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="video features"):
        evaluated(text, frames, mask, torch.arange(4), torch.ones(4, dtype=torch.bool), 2).compute()


def test_metric_can_be_used_again() -> None:
    text, frames, mask = features(4, 4)
    metric = evaluated(text, frames, mask, torch.arange(4), torch.ones(4, dtype=torch.bool), 2)
    first = metric.compute().metrics
    metric.reset()
    for index in torch.arange(4).split(2):
        metric.update_frames(frames[index], mask[index], index, index >= 0)
        metric.update_texts(text[index], index, index)
    assert metric.compute().metrics == first


def test_task_trains_and_ranks_with_the_same_similarity() -> None:
    backbone = CLIP("tiny", None)
    frames = noise(backbone, 4, 3)
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
    words = backbone.spec.tokenize(["a cat", "a dog runs", "rain", "two men talk"], 8)
    index = torch.arange(4)
    batch = Batch(clips_of(frames, mask), words, index, index, index, index >= 0)
    task = Retrieval(pooling=TextConditionedPooling(TEMPERATURE))
    with torch.no_grad():
        loss, _ = task.loss(backbone, batch)
        task.expect(4, 4)
        task.update(backbone, batch)
        video = backbone.encode_video(clips_of(frames, mask)).by_frame()
        text = backbone.encode_text(words)
    torch.testing.assert_close(torch.nn.functional.normalize(text.projected, dim=-1), text.pooled)
    similarity = text_conditioned_cosine(text.projected, video, mask, TEMPERATURE)
    logits = backbone.logit_scale.detach().exp() * similarity
    entropy = torch.nn.functional.cross_entropy
    assert float(loss) == pytest.approx(float(entropy(logits, index) + entropy(logits.T, index)) / 2, rel=1e-5)

    evaluation = task.compute()
    assert evaluation.inference["pooling"] == "text_conditioned"
    assert evaluation.ranks["t2v"].tolist() == text_to_video_ranks(scores_of_matrix(similarity), index).ranks.tolist()
