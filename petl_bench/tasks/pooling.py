"""How the frames of a clip become what captions are compared with: in the loss and in the ranks alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from petl_bench.backbones.base import TextFeatures, VideoFeatures
from petl_bench.configurable import Configurable
from petl_bench.metrics.retrieval import RetrievalMetric, TextConditionedRetrievalMetric
from petl_bench.ranges import Positive
from petl_bench.tasks.losses import contrastive_loss, text_conditioned_contrastive_loss


class Pooling(Configurable, ABC):
    """What a clip is to a caption."""

    #: in the record of a run
    name: ClassVar[str]
    #: whether it reads a feature of each frame
    needs_frames: ClassVar[bool] = False

    @abstractmethod
    def loss(
        self, text: TextFeatures, video: VideoFeatures, mask: Tensor, logit_scale: Tensor, video_ids: Tensor | None
    ) -> Tensor:
        """The symmetric contrastive loss of B pairs over the global batch.

        Args:
            text: of the captions; caption i belongs to clip i.
            video: of the clips.
            mask: (B, T) bool, True where a frame is real.
            logit_scale: scalar that multiplies the cosines (already exponentiated).
            video_ids: see `contrastive_loss`.
        """

    @abstractmethod
    def metric(self) -> RetrievalMetric:
        """An empty metric that ranks by the same similarity."""

    def record(self) -> dict[str, Any]:
        """What the record of a run says of it."""
        return {"pooling": self.name}


class MeanPooling(Pooling):
    """The mean of the normalised frames (CLIP4Clip): one vector for each clip."""

    name = "mean"

    def loss(
        self, text: TextFeatures, video: VideoFeatures, mask: Tensor, logit_scale: Tensor, video_ids: Tensor | None
    ) -> Tensor:
        return contrastive_loss(text.pooled, video.pooled, logit_scale, video_ids)

    def metric(self) -> RetrievalMetric:
        return RetrievalMetric()


class TextConditionedPooling(Pooling):
    """Each caption weighs the frames by their likeness to it, so that clips no longer have one vector each.

    Source: Cross-Modal Adapter (Jiang et al., arXiv 2211.09623).

    Args:
        temperature: of the softmax over frames; published: 5.0.
    """

    name = "text_conditioned"
    needs_frames = True

    def __init__(self, temperature: Positive = 5.0) -> None:
        self.temperature = temperature

    def loss(
        self, text: TextFeatures, video: VideoFeatures, mask: Tensor, logit_scale: Tensor, video_ids: Tensor | None
    ) -> Tensor:
        return text_conditioned_contrastive_loss(
            text.projected, video.by_frame(), mask, self.temperature, logit_scale, video_ids
        )

    def metric(self) -> RetrievalMetric:
        return TextConditionedRetrievalMetric(self.temperature)

    def record(self) -> dict[str, Any]:
        return super().record() | {"temperature": self.temperature}
