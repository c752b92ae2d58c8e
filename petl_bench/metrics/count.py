"""Mean squared error of counts, as the evaluators of TGIF-QA have it: the lower, the better.

A prediction is a whole number from 1 to 10. Published models are scored against targets of which 0 was made 1 when
they were loaded, the trivial baselines of the paper against the answers as they are: a constant 2 has 7.008 by the
one and 7.783 by the other. Both are given, each under its name.

Source: ST-VQA (Jang et al., CVPR 2017) and HCRN (Le et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from petl_bench.errors import DataError, NonFiniteError
from petl_bench.metrics.questions import QuestionMetric

#: part of what makes two results comparable
VERSION = "count-mse/1, predictions 1 to 10, targets from 1"
LEAST, MOST = 1, 10


def rounded(values: Tensor) -> list[int]:
    """Counts that a regression (M,) gives: the nearest whole number from 1 to 10, of two the even one.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    if not values.isfinite().all():
        raise NonFiniteError("NaN or infinite counts; check the model")
    return [int(value) for value in values.double().round().clamp(LEAST, MOST).tolist()]


def target_of(answer: int) -> int:
    """What a count is trained towards and, in the headline figure, held against: 1 where the answer is 0."""
    return max(answer, LEAST)


def squared_error(prediction: int | None, target: int) -> float:
    """Of one prediction; None, of a clip that could not be read, is the worst of those that can be made."""
    given = (LEAST, MOST) if prediction is None else (prediction,)
    return float(max((one - target) ** 2 for one in given))


@dataclass
class CountResult:
    """What an evaluation found; row i of each array is the question with sample index i.

    Attributes:
        errors: float64 (M,), squared, against the answers from 1.
        raw: float64 (M,), squared, against the answers as they are.
        predictions: counts, text (M,); empty where the clip could not be read.
    """

    errors: np.ndarray
    raw: np.ndarray
    predictions: np.ndarray


class CountMetric(QuestionMetric):
    """Squared errors of counts, keyed by sample index: any number of processes gives the same result.

    Args:
        expected: number of questions of the split, or None for one more than the largest index seen.
    """

    kind = "count"
    raw: list[Tensor]

    def __init__(self, expected: int | None = None) -> None:
        super().__init__(expected, ("raw",))

    def update(self, index: Tensor, predictions: Sequence[int | None], answers: Sequence[int | None]) -> None:
        """Adds questions.

        Args:
            index: sample index (M,).
            predictions: counts; None where the clip could not be read.
            answers: as annotated.

        Raises:
            DataError: a question has no annotated count.
        """
        known = [answer for answer in answers if answer is not None]
        if len(known) < len(answers):
            raise DataError("a question has no annotated count, so the error is unknown; `predict` writes the counts")
        pairs = list(zip(predictions, known, strict=True))
        errors = [squared_error(given, target_of(answer)) for given, answer in pairs]
        texts = ["" if given is None else str(given) for given in predictions]
        nothing = [""] * len(pairs)
        self._add(index, errors, texts, nothing, nothing)
        self.raw.append(torch.tensor([squared_error(*pair) for pair in pairs], dtype=torch.float64))

    def compute(self) -> CountResult:
        """What became of the questions of all processes.

        Raises:
            DistributedError: a sample index is missing or occurs more than once.
            DataError: there is no question.
        """
        order = self._order()
        errors, raw = (self._numbers(state, order) for state in (self.scores, self.raw))
        return CountResult(errors, raw, self._texts(order)[2])
