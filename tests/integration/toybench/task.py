"""A toy task."""

from __future__ import annotations

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.tasks.retrieval import Retrieval


class Ranking(Retrieval):
    """Retrieval, trained with hinges in the place of a contrastive loss.

    Args:
        margin: by which a matching pair must be ahead of others.
    """

    name = "ranking"
    logs = ()

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = margin

    def unused_parameters(self, backbone: Backbone) -> list[torch.nn.Parameter]:
        assert backbone.joint is not None
        return [*super().unused_parameters(backbone), *backbone.joint.scale_parameters()]

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        video, text = backbone.encode_video(batch.clips).pooled, backbone.encode_text(batch.words).pooled
        cosines = text @ video.T
        behind = self.margin + cosines - cosines.diagonal()[:, None]
        return behind.relu().mean(), {}
