"""Questions that are answered by choosing one of several options, by an answer decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, Question, WhichWay
from petl_bench.errors import DataError, UsageError
from petl_bench.metrics.choice import LOGITS, tie_rule, version
from petl_bench.nn.transformer import Memory
from petl_bench.ranges import ShareBelowOne
from petl_bench.tasks.answering import (
    Rank,
    after_vision_of_answers,
    log_probabilities,
    loss_of_answers,
    read_questions,
)
from petl_bench.tasks.base import present
from petl_bench.tasks.choosing import Choosing


class ChoiceGeneration(Choosing):
    """Chooses the option that the answer decoder would most likely write: each question has a list of its own.

    The question reads all frames of its clip, and the score of an option is its log-probability, smoothed as in
    training. Loss: cross-entropy of the tokens of the right option, smoothed, summed over tokens, as that of
    `qa_generation`, whose adapters can be evaluated.

    Source: BLIP (Li et al., arXiv 2201.12086), `models/blip_vqa.py` of its official code, which ranks one list of
    answers for all questions.

    Args:
        log_probability: of an option: the `sum` over its tokens, the end included, which favours short options (BLIP),
            or their `mean`. What is trained does not depend on it.
        label_smoothing: share of the target that is spread over the vocabulary (BLIP: 0.1, Aurora: 0).
    """

    name = "choice_generation"
    metric_version = version(LOGITS)
    tie_rule = tie_rule(LOGITS)
    tolerance = LOGITS
    needs = ("fusion", "answers")
    takes = ("qa_generation",)

    def __init__(self, log_probability: Literal["sum", "mean"] = "sum", label_smoothing: ShareBelowOne = 0.1) -> None:
        super().__init__()
        self.log_probability: Literal["sum", "mean"] = log_probability
        self.label_smoothing = label_smoothing

    @property
    def scored_by(self) -> str:
        return {"sum": "log-probability", "mean": "mean log-probability of a token"}[self.log_probability]

    @property
    def answering(self) -> str:
        return (
            f"log-probability of each option, {self.log_probability} over tokens, "
            f"label_smoothing {self.label_smoothing}"
        )

    def scores(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Log-probabilities of the options of each question, (K,) each, in at least fp32."""
        _require_texts(batch.questions)
        scores = [torch.full((len(question.choices),), torch.nan) for question in batch.questions]
        if batch.decoded.any():
            places, states = read_questions(backbone, batch)
            read = places.tolist()
            found = self._of_options(backbone, states, [batch.questions[place].choices for place in read])
            for place, own in zip(read, found, strict=True):
                scores[place] = own
        return scores

    def _of_options(self, backbone: Backbone, states: Memory, options: Sequence[Sequence[str]]) -> Sequence[Tensor]:
        """Scores (K,) of the options of each question; states are (Q, N, D)."""
        decoder, counts = present(backbone.answers), list(map(len, options))
        words = decoder.answer_words([option for own in options for option in own])
        summed = log_probabilities(decoder, states, words, counts, self.label_smoothing)
        if self.log_probability == "mean":
            summed = summed / (words.mask.sum(dim=1) - 1)  # the start is given
        return summed.split(counts)

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _require_texts(batch.questions)
        right = [_right_option(question) for question in batch.questions]
        return loss_of_answers(backbone, batch, right, self.label_smoothing), {}

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        """One option is decoded, which stands for each of those that a question has."""
        after_vision_of_answers(backbone, batch, memory, Rank.max_length)


def _require_texts(questions: Sequence[Question]) -> None:
    """A decoder writes texts, and can score nothing else.

    Raises:
        UsageError: a question chooses between clips.
    """
    if any(isinstance(question, WhichWay) for question in questions):
        raise UsageError("choice_generation writes options, and some here are clips: take choice or choice_matching")


def _right_option(question: Question) -> dict[str, float]:
    """What a training question is answered with.

    Raises:
        DataError: nobody says it.
    """
    if question.correct is None:
        raise DataError("a training question has no right option: give a file with answers")
    return {question.choices[question.correct]: 1.0}
