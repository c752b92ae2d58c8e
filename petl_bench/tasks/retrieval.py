"""Text-video retrieval with two encoders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, SplitTexts
from petl_bench.metrics.ranks import figures_of
from petl_bench.metrics.retrieval import SUMMARY, OtherTexts
from petl_bench.metrics.scores import Scores
from petl_bench.metrics.second_figures import Compared
from petl_bench.ranges import Count
from petl_bench.tasks.base import Evaluation, PredictionFile, Task, present
from petl_bench.tasks.choice import Choice
from petl_bench.tasks.choosing import Choosing
from petl_bench.tasks.chunks import features_in_chunks
from petl_bench.tasks.pooling import MeanPooling, Pooling
from petl_bench.tasks.query_bank import encode_bank
from petl_bench.tasks.second_figures import SecondFigure, Seen, beside


class Retrieval(Task):
    """Symmetric contrastive training over the global batch; ranks by cosine.

    Source: CLIP4Clip (Luo et al., arXiv 2104.08860) and MV-Adapter (Jin et al., arXiv 2301.07868).

    Args:
        mask_duplicates: other samples of the same video in a batch are no negatives of each other. False is what
            the papers do.
        pooling: what a clip is to a caption: `MeanPooling`, or `TextConditionedPooling` (Cross-Modal Adapter).
        second_figures: what a test calculates beside the plain ranks, which stay what they are: `DualSoftmax`,
            `QBNorm`, `NDCG`, `FIRE`. They are no part of what makes two runs comparable.
        chunk: how many clips of a process's batch, with their captions, are embedded at once in training; null for all
            of them. Smaller ones take less memory and more time (`petl_bench.tasks.chunks`): all but one are embedded
            twice. Loss and gradient are those of the whole batch, but for what dropout draws.
    """

    operational = frozenset({"second_figures", "chunk"})

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
        second_figures: Sequence[SecondFigure] = (),
        chunk: Count | None = None,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.second_figures = tuple(second_figures)
        self._test: SplitTexts | None = None
        self._bank: list[str] = []
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

    def chooser(self) -> Choosing | None:
        return Choice() if isinstance(self.pooling, MeanPooling) else None

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return [] if backbone.fusion is None else backbone.fusion.fusion_parameters()

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        video, text = features_in_chunks(backbone, batch.clips, batch.words, self.chunk or len(batch.clips.mask))
        scale = present(backbone.joint).logit_scale.exp()
        ids = batch.video_index if self.mask_duplicates else None
        loss = self.pooling.loss(text, video, batch.clips.mask, scale, ids)
        return loss, {"logit_scale": scale.detach()}

    def after_step(self, backbone: Backbone) -> None:
        present(backbone.joint).limit_logit_scale()

    def carried(self) -> dict[str, Any]:
        """An adapter has no second figures: their files stay where they are."""
        return {**super().carried(), "second_figures": []}

    def expect(self, videos: int | None, texts: int | None) -> None:
        self.metric.expected_videos, self.metric.expected_texts = videos, texts

    def before_test(self, texts: SplitTexts) -> None:
        if not self.second_figures:
            return
        self._test = texts
        for figure in self.second_figures:
            figure.require_fit(texts)
        if any(figure.has_bank for figure in self.second_figures):
            self._bank = texts.training_captions()  # before clips are read: the split may have none

    def update(self, backbone: Backbone, batch: Batch) -> None:
        video = backbone.encode_video(batch.clips)
        text = backbone.encode_text(batch.words)
        self.metric.update_clips(video.pooled, video.frames, batch.clips.mask, batch.video_index, batch.decoded)
        self.metric.update_captions(text.pooled, text.projected, batch.text_index, batch.text_video)

    def finish(self, backbone: Backbone) -> None:
        if (texts := self._test) is None:
            return
        bank = encode_bank(backbone, self._bank, texts, self.metric.of_captions) if self._bank else None
        scale = float(present(backbone.joint).logit_scale.detach().exp())

        def second(scores: Scores, text_video: Tensor, similar: OtherTexts) -> list[dict[str, Any]]:
            compared = Compared(scores, text_video, None if bank is None else similar(bank))
            return beside(self.second_figures, Seen(compared, texts, scale, self._bank))

        self.metric.beside = second

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        second = {"second_figures": result.second} if result.second else {}
        return Evaluation(
            metrics=result.metrics,
            record=figures_of(result.ranks) | second,
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
        self.metric.beside, self._test, self._bank = None, None, []

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
