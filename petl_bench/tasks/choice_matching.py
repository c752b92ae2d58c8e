"""Questions that are answered by choosing one of several options, by a backbone whose text reads video."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.inputs import Words
from petl_bench.metrics.choice import LOGITS, tie_rule, version
from petl_bench.nn.transformer import Memory
from petl_bench.tasks.base import present
from petl_bench.tasks.choosing import Choosing, compared, cross_entropy_of_options


class ChoiceMatching(Choosing):
    """Chooses the option that matches the clip best: "question option" reads all frames, and the matching head scores.

    The score is the head's logit of "match". Where options are captions there is no question before them. The loss is
    the cross-entropy over the options of each question. The contrastive loss of `matching` has no part in it: its
    projections stay as they are. What is read means the same there, so that adapters of `matching` can be evaluated
    without training.

    Source: the matching head on MSRVTT-MC without training (Singularity, Lei et al. 2022; VindLU, Cheng et al., CVPR
    2023); cross-entropy over options that cross-attention reads (ClipBERT, Lei et al., CVPR 2021; VIOLET, Fu et al.
    2021). Their heads for it begin at random, ours is BLIP's.
    """

    name = "choice_matching"
    metric_version = version(LOGITS)
    tie_rule = tie_rule(LOGITS)
    tolerance = LOGITS
    needs = ("joint", "fusion", "matching")
    takes = ("matching",)

    @property
    def scored_by(self) -> str:
        return "matching logit"

    @property
    def answering(self) -> str:
        return "matching logit of each option"

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        # A method may weigh frames by what the projections give, but trains nothing through that.
        return [*present(backbone.joint).scale_parameters(), *backbone.projections()]

    def scores(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Logits of "match" of the options of each question, (K,) each, in at least fp32."""
        clips, pairs = compared(batch)
        video, memory = backbone.encode_video_tokens(clips)
        frames = video.by_frame().detach()
        options = present(batch.options)

        def of_clip(row: int, texts: Tensor) -> Tensor:
            one = slice(row, row + 1)  # whose keys and values are computed once for all options
            words = options.select(slice(int(texts[0]), int(texts[-1]) + 1))._replace(most=options.most)
            return _match(backbone, words, memory.select(one), frames[one], clips.mask[one])

        scores = []
        counts = [len(question.choices) for question in batch.questions]
        parts = zip(*(part.split(counts) for part in pairs), strict=True)
        for read, (rows, texts) in zip(batch.own_clips().read, parts, strict=True):
            if not read:  # there is nothing to attend to
                scores.append(torch.full((len(rows),), torch.nan))
                continue
            scores.append(torch.cat([of_clip(row, texts[rows == row]) for row in dict.fromkeys(rows.tolist())]))
        return scores

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return cross_entropy_of_options(self.scores(backbone, batch), batch.questions), {}

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        """One option reads the clip, which stands for each of those that a question has."""
        assert memory is not None  # whoever has a matching head has tokens
        present(backbone.matching).match(present(batch.options).select(slice(1)), memory)


def _match(backbone: Backbone, words: Words, memory: Memory, frames: Tensor, mask: Tensor) -> Tensor:
    """Logits (K,) of texts (K, N) that read one clip: its tokens, frames (1, T, E) and mask (1, T)."""
    fusion = present(backbone.fusion)
    if fusion.frame_attention is not None:
        with torch.no_grad():
            memory = fusion.weigh_frames(memory, backbone.encode_text(words).pooled, frames, mask)
    logits = present(backbone.matching).match(words, memory)[:, 1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
