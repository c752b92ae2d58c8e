"""Questions that are answered by choosing one of several options, by a backbone with two encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.inputs import sent
from petl_bench.metrics.choice import COSINES, tie_rule, version
from petl_bench.nn.transformer import Memory
from petl_bench.tasks.base import present
from petl_bench.tasks.choosing import Choosing, compared, cross_entropy_of_options


class Choice(Choosing):
    """Chooses the option whose text fits the clip best: the cosine of the clip and "question option".

    Where options are captions there is no question before them; where they are a clip and its reverse, the text is one
    (`WhichWay`), and both clips are encoded. The loss is the cross-entropy over the options of each
    question, of cosines times the logit scale; options of other questions are no negatives, so it needs no other
    process. Nothing is trained that retrieval does not train: adapters of `retrieval` can be evaluated, and those of
    `matching`, whose first stage it is.

    Source: the convention of CLIP on multiple choice (ATP, Buch et al., CVPR 2022; InternVideo on MSRVTT-MC).
    """

    name = "choice"
    metric_version = version(COSINES)
    tie_rule = tie_rule(COSINES)
    tolerance = COSINES
    pooling = "mean"
    needs = ("joint",)
    takes = ("retrieval", "matching")
    logs = ("logit_scale",)

    @property
    def scored_by(self) -> str:
        return "cosine"

    @property
    def answering(self) -> str:
        return "cosine of each option"

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return [] if backbone.fusion is None else backbone.fusion.fusion_parameters()

    def scores(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Cosines of the options of each question with its clip, (K,) each, in at least fp32."""
        clips, pairs = compared(batch)
        video = backbone.encode_video(clips).pooled  # (B and clips in reverse, E)
        text = backbone.encode_text(present(batch.options)).pooled  # (N, E)
        clip, option = sent(pairs, video.device)
        dtype = torch.promote_types(text.dtype, torch.float32)
        with torch.autocast(video.device.type, enabled=False):
            cosines = (text.to(dtype)[option] * video.to(dtype)[clip]).sum(dim=-1)
        return list(cosines.split([len(question.choices) for question in batch.questions]))

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        scale = present(backbone.joint).logit_scale.exp()
        # Scaled before they are padded: the scale's gradient would be that of 0 times infinity.
        scaled = [scale * cosines for cosines in self.scores(backbone, batch)]
        return cross_entropy_of_options(scaled, batch.questions), {"logit_scale": scale.detach()}

    def after_step(self, backbone: Backbone) -> None:
        present(backbone.joint).limit_logit_scale()

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        """One option is read, which stands for each of those that a question has."""
        backbone.encode_text(present(batch.options).select(slice(1)))
