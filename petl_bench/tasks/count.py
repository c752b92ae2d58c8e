"""Questions that are answered by a count, by a backbone with two encoders."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, rows_of_clips
from petl_bench.errors import DataError
from petl_bench.inputs import sent
from petl_bench.metrics.count import VERSION, CountMetric, rounded, target_of
from petl_bench.metrics.ranks import figures_of
from petl_bench.tasks.base import Evaluation, PredictionFile, present
from petl_bench.tasks.questions import Answer, QuestionTask

#: a question's id and its count; None where the clip could not be read
_Count = tuple[int | str, int | None]


class CountHead(nn.Module):
    """One number from the pooled features of a clip and a question: linear in [v, q].

    v and q are normalised to mean 0 and variance 1, or a number as large as 10 would take very large weights. Computed
    in the precision of its parameters, whatever autocast says.

    Args:
        width: E, of both features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(2 * width, 1)

    def forward(self, video: Tensor, question: Tensor) -> Tensor:
        """Counts (M,), not rounded, of M questions: video and question features (M, E), the clip of each question."""
        dtype = self.linear.weight.dtype
        with torch.autocast(video.device.type, enabled=False):
            v, q = (nn.functional.layer_norm(x.to(dtype), (self.width,)) for x in (video, question))
            return self.linear(torch.cat([v, q], dim=-1))[:, 0]


class Count(QuestionTask):
    """Counts by regression: a linear output on the pooled features of clip and question.

    The loss is the squared error of the output, against an answer of 0 as against 1. In evaluation the output is
    rounded (of two whole numbers to the even one) and brought into 1 to 10; `mse` is against the same targets, which is
    the figure of the papers, `mse_raw` against the answers as they are. Less is better. A clip that could not be read
    counts as the worst of the counts that can be given. The head is part of what is trained and saved, with every
    method; on BLIP, too, it reads the two encoders, and the multimodal encoder is not trained.

    Source: the convention of TGIF-QA's Count (ST-VQA, Jang et al., CVPR 2017; HCRN, Le et al., CVPR 2020).
    """

    name = "count"
    metric_version = VERSION
    tie_rule = "to the even count"
    texts = "count questions"
    monitor = "mse"
    pooling = "mean"
    needs = ("joint",)

    def __init__(self) -> None:
        super().__init__(CountMetric())

    @property
    def answering(self) -> str:
        return "regression"

    def metric_names(self, several_texts: bool, types: Collection[str]) -> list[str]:
        return ["mse", "mse_raw"]

    def prepare(self, backbone: Backbone) -> None:
        self.head = CountHead(backbone.embed_dim)

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        fusion = [] if backbone.fusion is None else backbone.fusion.fusion_parameters()
        return [*present(backbone.joint).scale_parameters(), *fusion]

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.head(backbone.encode_video(batch.clips).pooled, backbone.encode_text(batch.words).pooled)  # (B,)
        answers = [question.number for question in batch.questions]
        if None in answers:
            raise DataError("a training question has no annotated count")
        targets = sent(torch.tensor([target_of(answer or 0) for answer in answers]), found.device).to(found.dtype)
        return (found - targets).square().mean(), {}

    @property
    def scored_by(self) -> str:
        return "count before it is rounded"

    def ranked(self, backbone: Backbone, batch: Batch, most: int) -> list[tuple[Answer, ...]]:
        found = self._counted(backbone, batch)
        return [() if one is None else (Answer(str(one[0]), one[1]),) for one in found]

    def answer(self, backbone: Backbone, batch: Batch) -> list[int | None]:
        """A count for each question; None where its clip could not be read."""
        return [None if one is None else one[0] for one in self._counted(backbone, batch)]

    def _counted(self, backbone: Backbone, batch: Batch) -> list[tuple[int, float] | None]:
        """Counts, and what they were before they were rounded; None where the clip could not be read."""
        clip = rows_of_clips(batch)
        video, text = backbone.encode_video(batch.clips), backbone.encode_text(batch.words)
        read = batch.decoded[clip]
        values = self.head(video.pooled[clip], text.pooled)[read]
        found = iter(zip(rounded(values), values.tolist(), strict=True))
        return [next(found) if ok else None for ok in read.tolist()]

    def update(self, backbone: Backbone, batch: Batch) -> None:
        self.metric.update(
            batch.text_index, self.answer(backbone, batch), [question.number for question in batch.questions]
        )

    def compute(self) -> Evaluation:
        found = self.metric.compute()
        ranks = {"squared_error": found.errors, "squared_error_raw": found.raw, "prediction": found.predictions}
        record = figures_of(ranks)
        metrics = {name: record[name] for name in ("mse", "mse_raw")}
        return Evaluation(metrics, record, ranks, self.inference(), self._videos)

    def predict(self, backbone: Backbone, batch: Batch) -> list[_Count]:
        """Ids of questions and counts."""
        found = self.answer(backbone, batch)
        return [(question.id, count) for question, count in zip(batch.questions, found, strict=True)]

    def prediction_file(self, predictions: Sequence[list[_Count]]) -> PredictionFile:
        """`counts.json`: `{id: count}`; null where the clip could not be read."""
        counts = {str(id): count for batch in predictions for id, count in batch}
        return PredictionFile(
            "counts.json", json.dumps(counts, indent=1).encode(), f"counts of {len(counts)} questions"
        )
