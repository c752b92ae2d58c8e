"""What all question-answering tasks share: one answer per question, and how answers are scored and written."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, Literal

from petl_bench.backbones.base import Backbone
from petl_bench.data.answers import SAVED_NAME, Vocabulary
from petl_bench.data.batch import Batch
from petl_bench.metrics.qa import AnswerMetric, exact_match, submission, vqa_accuracy
from petl_bench.metrics.wups import WUPS, WUPSMetric
from petl_bench.storage.descriptions import TextFile
from petl_bench.tasks.base import Evaluation, PredictionFile
from petl_bench.tasks.questions import QuestionTask

Score = Literal["exact_match", "vqa"]

_SCORES = {"exact_match": exact_match, "vqa": vqa_accuracy}
_VERSIONS = {"exact_match": "qa-exact-match/1", "vqa": "vqav2-accuracy/1"}


class QuestionAnswering(QuestionTask):
    """Questions about clips; each is answered from its own clip, and one whose clip cannot be read is wrong.

    Args:
        score: `exact_match` (video QA), `vqa` (the official accuracy of VQAv2), or WUPS.
        vocabulary: the answers that can be given; None where any text can.
    """

    texts = "questions"
    #: whether one trained model can be tested with other vocabularies
    chooses: ClassVar[bool] = False

    def __init__(self, score: Score | WUPS, vocabulary: Vocabulary | None) -> None:
        answers = None if vocabulary is None else vocabulary.answers
        by_words = isinstance(score, WUPS)
        super().__init__(WUPSMetric(score, answers) if by_words else AnswerMetric(_SCORES[score], answers))
        self.vocabulary = vocabulary
        self.metric_version = score.version if by_words else _VERSIONS[score]

    def metric_names(self, several_texts: bool, types: Collection[str]) -> list[str]:
        return ["accuracy", *(f"accuracy_{name}" for name in sorted(set(types)))]

    def contents(self) -> dict[str, Any]:
        """The answers in their order, in the place of the file and of how many of it are taken."""
        if self.vocabulary is None:
            return {}
        return {"answer_list": f"sha256:{self.vocabulary.sha256}", "max_answers": None}

    def carried(self) -> dict[str, Any]:
        if self.vocabulary is None:
            return {}
        return {"answer_list": TextFile(SAVED_NAME, self.vocabulary.saved), "max_answers": None}

    def answer(self, backbone: Backbone, batch: Batch) -> list[str | None]:
        """An answer to each question of an evaluation batch; None where its clip could not be read."""
        return [found[0].text if found else None for found in self.ranked(backbone, batch, 1)]

    def update(self, backbone: Backbone, batch: Batch) -> None:
        questions = batch.questions
        self.metric.update(
            batch.text_index,
            self.answer(backbone, batch),
            [question.answers for question in questions],
            [question.type for question in questions],
            [question.group for question in questions],
        )

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        evaluation = self.evaluation(result)
        if result.exact_match is not None:
            evaluation.record["exact_match"] = evaluation.metrics["exact_match"] = result.exact_match
        if self.vocabulary is not None:
            evaluation.record["vocabulary"] = {
                "file": self.vocabulary.file,
                "sha256": self.vocabulary.sha256,
                "size": len(self.vocabulary),
                "coverage": result.coverage,
            }
        return evaluation

    def inference(self) -> dict[str, Any]:
        return super().inference() | {
            "answer_list": self.vocabulary.sha256 if self.chooses and self.vocabulary else None
        }

    def predict(self, backbone: Backbone, batch: Batch) -> list[tuple[int | str, str]]:
        """Question ids and answers; an empty answer where the video could not be read."""
        answers = self.answer(backbone, batch)
        return [(question.id, answer or "") for question, answer in zip(batch.questions, answers, strict=True)]

    def prediction_file(self, predictions: list[list[tuple[int | str, str]]]) -> PredictionFile:
        """`answers.json`, the form that EvalAI takes for VQAv2 test."""
        answers = [pair for batch in predictions for pair in batch]
        return PredictionFile("answers.json", submission(answers).encode(), f"answers to {len(answers)} questions")
