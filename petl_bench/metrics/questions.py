"""What metrics of questions share: what each question counts, its type and group, and what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from petl_bench.errors import DataError
from petl_bench.metrics.by_index import gather_on_cpu, sorting_permutation, texts_in_order, texts_to_bytes, to_cpu


class QuestionMetric(Metric):
    """Keyed by sample index: any number of processes gives the same result.

    Args:
        expected: number of questions of the split, or None for one more than the largest index seen.
        others: names of what else is kept of each question.
    """

    #: what it is called in messages
    kind: ClassVar[str]
    full_state_update = False
    index: list[Tensor]
    scores: list[Tensor]
    types: list[Tensor]
    groups: list[Tensor]
    predictions: list[Tensor]

    def __init__(self, expected: int | None, others: Sequence[str]) -> None:
        super().__init__(dist_sync_fn=gather_on_cpu)
        self.expected = expected
        for state in ("index", "scores", "types", "groups", "predictions", *others):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def _add(
        self,
        index: Tensor,
        scores: Sequence[float],
        predictions: Sequence[str],
        types: Sequence[str],
        groups: Sequence[str],
    ) -> None:
        """Adds questions: sample index (M,), what each counts, what was answered, its type, and the group of that."""
        if not len(index) == len(scores) == len(predictions) == len(types) == len(groups):
            raise ValueError(
                f"{len(index)} indices, {len(predictions)} predictions, {len(types)} types and {len(groups)} groups"
            )
        self.index.append(to_cpu(index, torch.long))
        self.scores.append(torch.tensor(scores, dtype=torch.float64))
        self.types.append(texts_to_bytes(types))
        self.groups.append(texts_to_bytes(groups))
        self.predictions.append(texts_to_bytes(predictions))

    def _order(self) -> Tensor:
        """What puts the questions of all processes in the order of the split.

        Raises:
            DistributedError: a sample index is missing or occurs more than once.
            DataError: there is no question.
        """
        if not len(self.index):
            raise DataError(f"{self.kind} metric: no question was evaluated; check the split")
        return sorting_permutation(dim_zero_cat(self.index), self.expected, "question")

    def _numbers(self, state: list[Tensor], order: Tensor) -> np.ndarray:
        return dim_zero_cat(state).cpu()[order].numpy()

    def _texts(self, order: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Types, their groups, and what was answered, (M,) each."""
        types, groups, predictions = map(dim_zero_cat, (self.types, self.groups, self.predictions))
        return texts_in_order(types, order), texts_in_order(groups, order), texts_in_order(predictions, order)
