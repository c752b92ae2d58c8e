"""Questions that are answered by choosing one of several options, by a backbone with two encoders."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, WhichWay
from petl_bench.inputs import Clips
from petl_bench.metrics.choice import NOTHING, TOLERANCE, VERSION, ChoiceMetric, choose
from petl_bench.nn.transformer import Memory
from petl_bench.tasks.base import Evaluation, PredictionFile, present
from petl_bench.tasks.questions import QuestionTask, rows_of_clips

#: of one question: its id, the option that was chosen, the right one if that is known
_Choice = tuple[int | str, int, int | None]


class Choice(QuestionTask):
    """Chooses the option whose text fits the clip best: the cosine of the clip and "question option".

    Where options are captions there is no question before them; where they are a clip and its reverse, the text is one
    (`WhichWay`), and both clips are encoded. The loss is the cross-entropy over the options of each
    question, of cosines times the logit scale; options of other questions are no negatives, so it needs no other
    process. Nothing is trained that retrieval does not train: adapters of `retrieval` can be evaluated.

    Source: the convention of CLIP on multiple choice (ATP, Buch et al., CVPR 2022; InternVideo on MSRVTT-MC).
    """

    name = "choice"
    metric_version = VERSION
    tie_rule = f"1/k where k scores lie within {TOLERANCE:.0e} of the best"
    texts = "choice questions"
    needs = ("joint",)
    takes = ("retrieval",)
    logs = ("logit_scale",)

    def __init__(self) -> None:
        super().__init__(ChoiceMetric())

    def metric_names(self, several_texts: bool, types: Collection[str]) -> list[str]:
        return ["accuracy", "mean_of_types", *(f"accuracy_{name}" for name in sorted(set(types)))]

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return [] if backbone.fusion is None else backbone.fusion.fusion_parameters()

    def scores(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Cosines of the options of each question with its clip, (K,) each, in at least fp32."""
        clips, pairs = compared(batch)
        video = backbone.encode_video(clips).pooled  # (B and clips in reverse, E)
        text = backbone.encode_text(present(batch.options)).pooled  # (N, E)
        clip, option = pairs.to(video.device)
        dtype = torch.promote_types(text.dtype, torch.float32)
        with torch.autocast(video.device.type, enabled=False):
            cosines = (text.to(dtype)[option] * video.to(dtype)[clip]).sum(dim=-1)
        return list(cosines.split([len(question.choices) for question in batch.questions]))

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        scale = present(backbone.joint).logit_scale.exp()
        # Scaled before they are padded: the scale's gradient would be that of 0 times infinity.
        scaled = [scale * cosines for cosines in self.scores(backbone, batch)]
        logits = pad_sequence(scaled, batch_first=True, padding_value=-torch.inf)  # (B, K)
        right = torch.tensor([question.correct for question in batch.questions], device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.cross_entropy(logits, right)
        return loss, {"logit_scale": scale.detach()}

    def after_step(self, backbone: Backbone) -> None:
        present(backbone.joint).limit_logit_scale()

    def update(self, backbone: Backbone, batch: Batch) -> None:
        questions = batch.questions
        self.metric.update(
            batch.text_index,
            self._of_readable_clips(backbone, batch),
            [question.correct for question in questions],
            [question.choices for question in questions],
            [question.type for question in questions],
            [question.group for question in questions],
        )

    def _of_readable_clips(self, backbone: Backbone, batch: Batch) -> list[Tensor | None]:
        """Scores on the CPU; None where the clip could not be read."""
        decoded = batch.decoded[rows_of_clips(batch)].tolist()
        scores = self.scores(backbone, batch)
        return [own.detach().cpu() if read else None for own, read in zip(scores, decoded, strict=True)]

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        return self.evaluation(result, chosen=result.chosen, n_choices=result.choices)

    def inference(self) -> dict[str, Any]:
        return {"rerank_k": None, "rerank_beta": None, "dual_softmax": False, "pooling": "mean"}

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        """One option is read, which stands for each of those that a question has."""
        backbone.encode_text(present(batch.options).select(slice(1)))

    def predict(self, backbone: Backbone, batch: Batch) -> list[_Choice]:
        """Ids of questions and what was chosen: -1 where the clip could not be read."""
        found = self._of_readable_clips(backbone, batch)
        return [
            (question.id, NOTHING if scores is None else choose(scores, 0).option, question.correct)
            for question, scores in zip(batch.questions, found, strict=True)
        ]

    def prediction_file(self, predictions: Sequence[list[_Choice]]) -> PredictionFile:
        """`choices.json`: `{id: {"prediction": index, "answer": index}}`, the form of NExT-QA's evaluation.

        Of a split without public answers it is `{id: index}`, the form of EgoSchema's.
        """
        every = [one for batch in predictions for one in batch]
        known = all(right is not None for _, _, right in every)
        chosen = {str(id): {"prediction": option, "answer": right} if known else option for id, option, right in every}
        return PredictionFile(
            "choices.json", json.dumps(chosen, indent=1).encode(), f"choices of {len(chosen)} questions"
        )


def compared(batch: Batch) -> tuple[Clips, Tensor]:
    """What is compared with what: each option of one question after another.

    Returns:
        The clips of the batch, behind them those that are shown in reverse; and long (2, sum of K): rows of these, and
        of `batch.options`.
    """
    clips, texts, first = [], [], 0
    turned: dict[int, int] = {}
    for row, question in zip(rows_of_clips(batch).tolist(), batch.questions, strict=True):
        if isinstance(question, WhichWay):
            clips += [row, turned.setdefault(row, len(batch.video_index) + len(turned))]
            texts += [first, first]
        else:
            clips += [row] * len(question.choices)
            texts += range(first, first + len(question.choices))
        first += len(question.options)
    pairs = torch.tensor([clips, texts])
    if not turned:
        return batch.clips, pairs
    backwards = batch.clips.select(torch.tensor(list(turned))).reversed()
    return Clips(*(torch.cat(parts) for parts in zip(batch.clips, backwards, strict=True))), pairs
