"""What pretraining asks of features beside their cosines: what each thing looks like, and where it is.

Without it a small CLIP learns no places within the steps that a CPU makes: as long as neither tower tells left from
right, neither has a reason to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.backbones.base import TextFeatures, VideoFeatures
from petl_bench.pretraining.stills import LOOKS


class Looks(nn.Module):
    """One linear layer that reads, of each shape, whether it is there, and its looks; the same for clips and texts.

    Args:
        width: of features, before they are normalised.
        shapes: that there are.
        seed: of its first weights.
    """

    def __init__(self, width: int, shapes: int, seed: int) -> None:
        super().__init__()
        self.shapes = shapes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.read = nn.Linear(width, shapes * (2 + sum(LOOKS.values())))

    def of_both(self, video: VideoFeatures, text: TextFeatures, looks: Tensor) -> Tensor:
        """The loss of stills and of their captions (`loss`)."""
        return self.loss(video.by_frame()[:, 0], looks) + self.loss(text.projected, looks)

    def loss(self, features: Tensor, looks: Tensor) -> Tensor:
        """Mean cross-entropy of what is known, summed over the kinds of looks.

        Args:
            features: (B, E).
            looks: (B, shapes, kinds), -1 where nothing has that shape, or for what is not known.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = self.read(features.float()).unflatten(1, (self.shapes, -1)).split([2, *LOOKS.values()], dim=2)
        there = (looks[..., 0] >= 0).long()
        targets = [there, *looks.unbind(2)]
        return torch.stack(
            [
                F.cross_entropy(own.flatten(0, 1), target.flatten(), ignore_index=-1)
                for own, target in zip(logits, targets, strict=True)
            ]
        ).sum()
