"""What tasks share whose samples are questions: one score for each, its mean over all, over types and over groups."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.metrics.choice import ChoiceResult
from petl_bench.metrics.qa import AnswerResult
from petl_bench.metrics.questions import QuestionMetric
from petl_bench.metrics.ranks import figures_of
from petl_bench.tasks.base import Evaluation, Task


class Answer(NamedTuple):
    """A possible answer to a question.

    Attributes:
        text: the answer.
        score: how good it is, by `QuestionTask.scored_by`; comparable among answers to one question.
    """

    text: str
    score: float


class QuestionTask(Task):
    """Questions about clips; each is answered from its own clip, and one whose clip cannot be read is wrong.

    `predict` gives pairs of a question's id and its answer, which a dataset may write in a form of its own.

    Args:
        metric: counts the answers.
    """

    monitor = "accuracy"
    #: how frames become what answers follow from; None: they are not pooled
    pooling: ClassVar[str | None] = None
    metric: QuestionMetric

    def __init__(self, metric: QuestionMetric) -> None:
        super().__init__()
        self.metric = metric
        self._videos = 0

    def expect(self, videos: int | None, texts: int | None) -> None:
        self._videos, self.metric.expected = videos or 0, texts

    def reset(self) -> None:
        self.metric.reset()

    @property
    @abstractmethod
    def scored_by(self) -> str:
        """What the scores of `ranked` are, in a few words."""

    @abstractmethod
    def ranked(self, backbone: Backbone, batch: Batch, most: int) -> list[tuple[Answer, ...]]:
        """The best answers to each question of an evaluation batch, the one that `predict` gives first.

        Args:
            backbone: adapted.
            batch: M questions.
            most: answers that are wanted of each.

        Returns:
            At most so many of each question; none where its clip could not be read.
        """

    @property
    @abstractmethod
    def answering(self) -> str:
        """How answers are found, for the run record: what changes the figures of one and the same trained model."""

    def inference(self) -> dict[str, Any]:
        return {
            "rerank_k": None,
            "rerank_beta": None,
            "dual_softmax": False,
            "pooling": self.pooling,
            "answers": self.answering,
        }

    def evaluation(self, result: AnswerResult | ChoiceResult, **others: np.ndarray) -> Evaluation:
        """What a metric found.

        Args:
            result: of the metric.
            others: what else `ranks.npz` keeps of each question.
        """
        ranks = {"correct": result.scores, "question_type": result.types, "prediction": result.predictions, **others}
        if any(result.groups):
            ranks["question_group"] = result.groups
        record = figures_of(ranks)
        metrics = {name: record[name] for name in ("accuracy", "mean_of_types") if name in record}
        metrics |= {f"accuracy_{name}": accuracy for name, accuracy in record["per_type"].items()}
        return Evaluation(metrics, record, ranks, self.inference(), self._videos)
