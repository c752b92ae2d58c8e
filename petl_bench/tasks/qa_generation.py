"""Question answering by an answer decoder, which writes the answer or chooses the best one of a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.errors import DataError, NonFiniteError, UsageError
from petl_bench.inputs import Words
from petl_bench.metrics.wups import WUPS
from petl_bench.nn.transformer import Memory
from petl_bench.ranges import ShareBelowOne
from petl_bench.tasks.answering import (
    CHUNK,
    Generate,
    Inference,
    after_vision_of_answers,
    loss_of_answers,
    read_questions,
)
from petl_bench.tasks.base import present
from petl_bench.tasks.choice_generation import ChoiceGeneration
from petl_bench.tasks.qa import QuestionAnswering, Score
from petl_bench.tasks.questions import Answer
from petl_bench.tasks.wups import find_wups


class AnswerGeneration(QuestionAnswering):
    """A question reads all frames of its clip, and a decoder that reads the question's states writes the answer.

    Loss: cross-entropy of the tokens of every annotated answer, smoothed, summed over tokens, times the weight of the
    answer, summed, over the number of questions. The released code divides by questions times frames for video, a slip
    (its own tensor of frames has been reshaped) that only scales the gradient; Aurora's weight of 0.05 does the same.

    Answers: found as `inference` says; what is trained does not depend on it.

    Source: BLIP (Li et al., arXiv 2201.12086), `models/blip_vqa.py` of its official code, and UniAdapter's.

    Args:
        inference: how answers are found: `Generate` writes any text, `Rank` chooses from a list.
        label_smoothing: share of the target that is spread over the vocabulary (BLIP: 0.1, Aurora: 0).
        score: `exact_match` (video QA), `vqa` (the official accuracy of VQAv2), or `wups` (open-ended NExT-QA;
            `petl_bench.metrics.wups.WUPS`), which is exact match where NLTK, WordNet or stop words are missing.
        wordnet: folder of WordNet 3.0, for `wups`; null looks where Debian and NLTK have it. What it holds is part of
            the metric's version.
        root: folder of the dataset; linked from `data.root`. Null is the current folder.

    Raises:
        DataError: if the answer list or WordNet cannot be read, or a training question has no answer.
    """

    name = "qa_generation"
    chooses = True
    needs = ("fusion", "answers")
    tie_rule = "the answer found first"
    operational = frozenset({"wordnet"})

    def __init__(
        self,
        inference: Inference = Generate(num_beams=3, max_length=10),  # noqa: B008  # which never changes
        label_smoothing: ShareBelowOne = 0.1,
        score: Score | Literal["wups"] = "exact_match",
        wordnet: Path | None = None,
        root: Path | None = None,
    ) -> None:
        if wordnet is not None and score != "wups":
            raise UsageError(f"task.wordnet is for score wups, and task.score is {score}: set it to null")
        super().__init__(_score(score, wordnet, root), inference.read(root))
        self.search, self.label_smoothing = inference, label_smoothing
        self._words: Words | None = None  # of all answers that can be given, made once

    @property
    def scored_by(self) -> str:
        return self.search.scored_by

    @property
    def answering(self) -> str:
        return self.search.describe(self._answers, self.label_smoothing)

    @property
    def _answers(self) -> Sequence[str]:
        """Those that can be given; empty where any text can."""
        return () if self.vocabulary is None else self.vocabulary.answers

    def contents(self) -> dict[str, Any]:
        return _of_inference(super().contents())

    def carried(self) -> dict[str, Any]:
        return _of_inference(super().carried())

    def chooser(self) -> ChoiceGeneration:
        return ChoiceGeneration(label_smoothing=self.label_smoothing)

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weighted = [question.weights for question in batch.questions]
        if not all(weighted):
            raise DataError("a training question has no annotated answer: give a file with answers")
        return loss_of_answers(backbone, batch, weighted, self.label_smoothing), {}

    def ranked(self, backbone: Backbone, batch: Batch, most: int) -> list[tuple[Answer, ...]]:
        decoder = present(backbone.answers)
        found: list[tuple[Answer, ...]] = [()] * len(batch.questions)
        if not batch.decoded.any():
            return found
        places, states = read_questions(backbone, batch)
        if not states.tokens.isfinite().all():
            raise NonFiniteError("NaN or infinite states of questions; check the model")
        if self._words is None and self._answers:
            self._words = decoder.answer_words(self._answers)
        for start in range(0, len(places), CHUNK):
            chunk = slice(start, start + CHUNK)
            known = (self._answers, self._words, self.label_smoothing)
            answers = self.search.find(decoder, states.select(chunk), *known, most)
            for place, own in zip(places[chunk].tolist(), answers, strict=True):
                found[place] = own
        return found

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        after_vision_of_answers(backbone, batch, memory, self.search.max_length)


def _score(name: Score | Literal["wups"], wordnet: Path | None, root: Path | None) -> Score | WUPS:
    return find_wups(wordnet, root) or "exact_match" if name == "wups" else name


def _of_inference(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the way of answering, which has the answer list, by their dotted names in the task's."""
    return {f"inference.init_args.{name}": value for name, value in options.items()}
