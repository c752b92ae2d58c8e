"""Text-video retrieval with two encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.losses import clamp_logit_scale_, contrastive_loss
from petl_bench.metrics.retrieval import RetrievalMetric, summarise
from petl_bench.tasks.base import Evaluation, Task


class Retrieval(Task):
    """Symmetric contrastive training over the global batch; ranks by cosine.

    Source: specs/mv_adapter.md section 7 (similarity, loss); DESIGN section 6 (evaluation).

    Args:
        mask_duplicates: other samples of the same video in a batch are no negatives of each other. False is what
            the papers do.
    """

    name = "retrieval"
    metric_version = "retrieval/1"
    tie_rule = "expected rank, rounded up"
    accumulates = False

    def __init__(self, mask_duplicates: bool = True) -> None:
        super().__init__()
        self.mask_duplicates = mask_duplicates
        self.metric = RetrievalMetric()

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        video = backbone.encode_video(batch.frames, batch.frame_mask).pooled
        text = backbone.encode_text(batch.ids, batch.text_mask).pooled
        scale = backbone.logit_scale.exp()
        ids = batch.video_index if self.mask_duplicates else None
        loss = contrastive_loss(text, video, scale, ids)
        return loss, {"logit_scale": scale.detach()}

    def after_step(self, backbone: Backbone) -> None:
        clamp_logit_scale_(backbone.logit_scale)

    def expect(self, videos: int | None, texts: int | None) -> None:
        self.metric.expected_videos, self.metric.expected_texts = videos, texts

    def update(self, backbone: Backbone, batch: Batch) -> None:
        video = backbone.encode_video(batch.frames, batch.frame_mask).pooled
        text = backbone.encode_text(batch.ids, batch.text_mask).pooled
        # A video that could not be read has no real frame; its feature is never looked at.
        video = torch.where(batch.decoded[:, None], video, 0)
        self.metric.update_videos(video, batch.video_index, batch.decoded)
        self.metric.update_texts(text, batch.text_index, batch.text_video)

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        record: dict[str, Any] = {
            direction: {**summarise(torch.from_numpy(ranks)), "n": len(ranks)}
            for direction, ranks in result.ranks.items()
        }
        return Evaluation(
            metrics=result.metrics,
            record=record | {"rsum": result.metrics["rsum"]},
            ranks={**result.ranks, "text_video": result.text_video},
            inference={"rerank_k": None, "dual_softmax": False},
            videos=len(result.ranks["v2t"]),
        )

    def reset(self) -> None:
        self.metric.reset()
