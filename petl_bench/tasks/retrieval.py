"""Text-video retrieval with two encoders."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.metrics.ranks import figures_of
from petl_bench.metrics.retrieval import SUMMARY
from petl_bench.tasks.base import Evaluation, PredictionFile, Task, present
from petl_bench.tasks.pooling import MeanPooling, Pooling


class Retrieval(Task):
    """Symmetric contrastive training over the global batch; ranks by cosine.

    Source: CLIP4Clip (Luo et al., arXiv 2104.08860) and MV-Adapter (Jin et al., arXiv 2301.07868).

    Args:
        mask_duplicates: other samples of the same video in a batch are no negatives of each other. False is what
            the papers do.
        pooling: what a clip is to a caption: `MeanPooling`, or `TextConditionedPooling` (Cross-Modal Adapter).
    """

    name = "retrieval"
    metric_version = "retrieval/1"
    tie_rule = "expected rank, rounded up"
    monitor = "rsum"
    needs = ("joint",)
    accumulates = False
    logs = ("logit_scale",)

    def __init__(
        self,
        mask_duplicates: bool = True,
        pooling: Pooling = MeanPooling(),  # noqa: B008  # which never changes
    ) -> None:
        super().__init__()
        self.mask_duplicates = mask_duplicates
        self.pooling = pooling
        self.needs_frames = self.needs_frames or pooling.needs_frames
        self.metric = pooling.metric()

    def metric_names(self, several_texts: bool, types: Collection[str]) -> list[str]:
        directions = ("t2v", "v2t", *(("v2t_captions",) if several_texts else ()))
        return [*(f"{direction}_{name}" for direction in directions for name in SUMMARY), "rsum"]

    def untaught(self, batch: int, processes: int, videos: int) -> str | None:
        if batch < 2:
            return f"data.batch_size is {batch}: {self.name} learns from the other samples of a batch, so at least 2"
        if videos < 2:
            return f"the training split has {videos} video: {self.name} learns from differences between videos"
        return None

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return [] if backbone.fusion is None else backbone.fusion.fusion_parameters()

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        video = backbone.encode_video(batch.clips)
        text = backbone.encode_text(batch.words)
        scale = present(backbone.joint).logit_scale.exp()
        ids = batch.video_index if self.mask_duplicates else None
        loss = self.pooling.loss(text, video, batch.clips.mask, scale, ids)
        return loss, {"logit_scale": scale.detach()}

    def after_step(self, backbone: Backbone) -> None:
        present(backbone.joint).limit_logit_scale()

    def expect(self, videos: int | None, texts: int | None) -> None:
        self.metric.expected_videos, self.metric.expected_texts = videos, texts

    def update(self, backbone: Backbone, batch: Batch) -> None:
        video = backbone.encode_video(batch.clips)
        text = backbone.encode_text(batch.words)
        self.metric.update_clips(video.pooled, video.frames, batch.clips.mask, batch.video_index, batch.decoded)
        self.metric.update_captions(text.pooled, text.projected, batch.text_index, batch.text_video)

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        return Evaluation(
            metrics=result.metrics,
            record=figures_of(result.ranks),
            ranks={
                **result.ranks,
                "text_video": result.text_video,
                **{f"{direction}_hits": hits for direction, hits in result.hits.items()},
            },
            inference=self.inference(),
            videos=len(result.ranks["v2t"]),
        )

    def inference(self) -> dict[str, Any]:
        return {"rerank_k": None, "rerank_beta": None, "dual_softmax": False, **self.pooling.record()}

    def reset(self) -> None:
        self.metric.reset()

    def predict(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Features of one batch: `video` (B, E), `text` (M, E), and the indices of both."""
        return {
            "video": backbone.encode_video(batch.clips).pooled.float(),
            "text": backbone.encode_text(batch.words).pooled.float(),
            "video_index": batch.video_index,
            "text_index": batch.text_index,
        }

    def prediction_file(self, predictions: list[dict[str, Tensor]]) -> PredictionFile:
        """`features.safetensors`, in the order of the split."""
        from safetensors.torch import save

        columns = {key: torch.cat([batch[key] for batch in predictions]) for key in predictions[0]}
        content = save({key: value.contiguous() for key, value in columns.items()})
        summary = f"features of {len(columns['video'])} videos and {len(columns['text'])} captions"
        return PredictionFile("features.safetensors", content, summary)
