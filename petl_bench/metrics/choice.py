"""Accuracy of questions that are answered by choosing one of several options.

What counts is the index, never the text, as two options may be the same one. An order-blind model gives a clip and its
reverse one score but for rounding, so scores that close are one: of k options that share the best score each counts
1/k. `argmax` alone would turn such ties into 100 % or 0 %, whichever option stands first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from petl_bench.errors import DataError, NonFiniteError
from petl_bench.metrics.questions import QuestionMetric

#: Cosines that differ by less are one score. Those of a text with the mean of 2 to 64 frames, of 8 to 1024 dimensions,
#: moved by at most 3.0e-7 when the frames were put in other orders (fp32; tests/unit/metrics/test_choice.py does it
#: again).
COSINES = 1e-6
#: The same of logits and log-probabilities of a text that reads all frames: of up to 87 they moved by at most 8.2e-6
#: (tests/unit/tasks/test_choice_matching.py and test_choice_generation.py).
LOGITS = 1e-4
#: what is chosen where the clip could not be read
NOTHING = -1


def version(tolerance: float) -> str:
    """Of the metric, as part of what makes two results comparable."""
    return f"choice-accuracy/1, ties within {tolerance:.0e}"


def tie_rule(tolerance: float) -> str:
    """What becomes of ties, for the record."""
    return f"1/k where k scores lie within {tolerance:.0e} of the best"


class Chosen(NamedTuple):
    """An option that was chosen, the first one of those with the best score, and what it counts: from 0 to 1."""

    option: int
    score: float


def choose(scores: Tensor, correct: int, tolerance: float = COSINES) -> Chosen:
    """What the scores (K,) of the options of one question choose; those within a tolerance of the best one share it.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    if not scores.isfinite().all():
        raise NonFiniteError("NaN or infinite scores of options; check the model")
    best = scores.double() >= scores.double().max() - tolerance
    return Chosen(int(best.int().argmax()), float(best[correct]) / int(best.sum()))


@dataclass
class ChoiceResult:
    """What an evaluation found; row i of each array is the question with sample index i.

    Attributes:
        scores: float64 (M,), what each question counts: 1, 0, or 1/k where k options share the best score.
        types: question types, text (M,).
        groups: of these types, text (M,); empty where there are none.
        predictions: the options that were chosen, text (M,); empty where the clip could not be read.
        chosen: their indices (M,); -1 where the clip could not be read.
        choices: number of options (M,).
    """

    scores: np.ndarray
    types: np.ndarray
    groups: np.ndarray
    predictions: np.ndarray
    chosen: np.ndarray
    choices: np.ndarray


class ChoiceMetric(QuestionMetric):
    """Accuracy of choices, keyed by sample index: any number of processes gives the same result.

    Args:
        expected: number of questions of the split, or None for one more than the largest index seen.
        tolerance: by which scores may differ that are one.
    """

    kind = "choice"
    chosen: list[Tensor]
    choices: list[Tensor]

    def __init__(self, expected: int | None = None, tolerance: float = COSINES) -> None:
        super().__init__(expected, ("chosen", "choices"))
        self.tolerance = tolerance

    def update(
        self,
        index: Tensor,
        scores: Sequence[Tensor | None],
        correct: Sequence[int | None],
        choices: Sequence[Sequence[str]],
        types: Sequence[str],
        groups: Sequence[str],
    ) -> None:
        """Adds questions.

        Args:
            index: sample index (M,).
            scores: of the options of each question, (K,) each; None where the clip could not be read, which is wrong.
            correct: index of the right option of each question.
            choices: the options themselves.
            types: question types.
            groups: of the types; empty texts where there are none.

        Raises:
            DataError: nobody says which option of a question is right.
            NonFiniteError: a score is NaN or infinite.
        """
        if None in correct:
            raise DataError("a question has no right option, so accuracy is unknown; `predict` writes the choices")
        chosen = [
            Chosen(NOTHING, 0.0) if own is None else choose(own, right or 0, self.tolerance)
            for own, right in zip(scores, correct, strict=True)
        ]
        texts = ["" if one.option == NOTHING else own[one.option] for one, own in zip(chosen, choices, strict=True)]
        self._add(index, [one.score for one in chosen], texts, types, groups)
        self.chosen.append(torch.tensor([one.option for one in chosen]))
        self.choices.append(torch.tensor([len(own) for own in choices]))

    def compute(self) -> ChoiceResult:
        """What became of the questions of all processes.

        Raises:
            DistributedError: a sample index is missing or occurs more than once.
            DataError: there is no question.
        """
        order = self._order()
        scores, chosen, choices = (self._numbers(state, order) for state in (self.scores, self.chosen, self.choices))
        types, groups, predictions = self._texts(order)
        return ChoiceResult(scores, types, groups, predictions, chosen, choices)
