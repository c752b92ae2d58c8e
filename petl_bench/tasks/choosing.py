"""What tasks share that choose one of several options: each option gets a score, the best one is chosen."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, Question, WhichWay
from petl_bench.errors import DataError
from petl_bench.inputs import Clips, sent
from petl_bench.metrics.choice import NOTHING, ChoiceMetric, choose
from petl_bench.tasks.base import Evaluation, PredictionFile
from petl_bench.tasks.questions import Answer, QuestionTask


class Choosing(QuestionTask):
    """Chooses the option with the best score; options that tie share the point, a clip that cannot be read is wrong."""

    texts = "choice questions"
    #: by which scores may differ that are one (`petl_bench.metrics.choice`)
    tolerance: ClassVar[float]

    def __init__(self) -> None:
        super().__init__(ChoiceMetric(tolerance=self.tolerance))

    @abstractmethod
    def scores(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Of the options of each question, (K,) each, in at least fp32; without meaning where no clip was read."""

    def metric_names(self, several_texts: bool, types: Collection[str]) -> list[str]:
        return ["accuracy", "mean_of_types", *(f"accuracy_{name}" for name in sorted(set(types)))]

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
        scores = self.scores(backbone, batch)
        return [own.detach().cpu() if read else None for own, read in zip(scores, batch.own_clips().read, strict=True)]

    def chooser(self) -> Choosing:
        return self

    def ranked(self, backbone: Backbone, batch: Batch, most: int) -> list[tuple[Answer, ...]]:
        found = self._of_readable_clips(backbone, batch)
        return [self._best(own, question)[:most] for own, question in zip(found, batch.questions, strict=True)]

    def _best(self, scores: Tensor | None, question: Question) -> tuple[Answer, ...]:
        """The option that is chosen, then the others by their scores; none of a clip that could not be read."""
        if scores is None:
            return ()
        first = choose(scores, 0, self.tolerance).option
        others = [place for place in scores.argsort(descending=True, stable=True).tolist() if place != first]
        return tuple(Answer(question.choices[place], float(scores[place])) for place in (first, *others))

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        return self.evaluation(result, chosen=result.chosen, n_choices=result.choices)

    def predict(self, backbone: Backbone, batch: Batch) -> list[tuple[int | str, int]]:
        """Ids of questions and what was chosen: -1 where the clip could not be read."""
        found = self._of_readable_clips(backbone, batch)
        chosen = [NOTHING if own is None else choose(own, 0, self.tolerance).option for own in found]
        return [(question.id, option) for question, option in zip(batch.questions, chosen, strict=True)]

    def prediction_file(self, predictions: Sequence[list[tuple[int | str, int]]]) -> PredictionFile:
        """`choices.json`: `{id: index}`; a dataset may have a form of its own (`QuestionAnswerDataModule`)."""
        chosen = {str(id): option for batch in predictions for id, option in batch}
        return PredictionFile(
            "choices.json", json.dumps(chosen, indent=1).encode(), f"choices of {len(chosen)} questions"
        )


def cross_entropy_of_options(scores: Sequence[Tensor], questions: Sequence[Question]) -> Tensor:
    """The cross-entropy over the options of each question, (K,) each, averaged; in at least fp32.

    Options of other questions are no negatives, so that it needs no other process.

    Raises:
        DataError: nobody says which option of a question is right.
    """
    right = [question.correct for question in questions]
    if None in right:
        raise DataError("a training question has no right option: give a file with answers")
    logits = pad_sequence(list(scores), batch_first=True, padding_value=-torch.inf)  # (B, K)
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits, sent(torch.tensor(right), logits.device))


def compared(batch: Batch) -> tuple[Clips, Tensor]:
    """What is compared with what: each option of one question after another.

    Returns:
        The clips of the batch, behind them those that are shown in reverse; and long (2, sum of K): rows of these, and
        of `batch.options`.
    """
    clips, texts, first = [], [], 0
    turned: dict[int, int] = {}
    for row, question in zip(batch.own_clips().rows, batch.questions, strict=True):
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
    backwards = batch.clips.select(sent(torch.tensor(list(turned)), batch.clips.mask.device)).reversed()
    return Clips(*(torch.cat(parts) for parts in zip(batch.clips, backwards, strict=True))), pairs
