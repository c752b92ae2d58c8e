"""Question answering about clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.answers import read_vocabulary
from petl_bench.data.batch import Batch, Question
from petl_bench.errors import NonFiniteError, UsageError
from petl_bench.metrics.qa import AnswerMetric, exact_match, vqa_accuracy, write_submission
from petl_bench.tasks.base import Evaluation, Task

_SCORES = {"exact_match": exact_match, "vqa": vqa_accuracy}
_VERSIONS = {"exact_match": "qa-exact-match/1", "vqa": "vqav2-accuracy/1"}


class AnswerHead(nn.Module):
    """Scores answers from the pooled features of a clip and a question.

    h = [v, q, v * q] with v and q normalised to mean 0 and variance 1; logits = W2 dropout(GELU(W1 h)).
    The product lets the question select what to read from the clip; a sum of two linear maps could not.
    Computed in the precision of its parameters, whatever autocast says, so that rounding makes no ties.

    Args:
        width: E, of both features.
        hidden_dim: between the two layers.
        answers: A, number of answers.
        dropout: before the second layer.
    """

    def __init__(self, width: int, hidden_dim: int, answers: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(3 * width, hidden_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_dim, answers)
        )

    def forward(self, video: Tensor, question: Tensor) -> Tensor:
        """Logits (M, A) of M questions: video and question features (M, E), the clip of each question."""
        dtype = next(self.parameters()).dtype
        with torch.autocast(video.device.type, enabled=False):
            v, q = (nn.functional.layer_norm(x.to(dtype), (self.width,)) for x in (video, question))
            return self.layers(torch.cat([v, q, v * q], dim=-1))


class AnswerClassifier(Task):
    """Answers from a fixed vocabulary, by a head on the pooled features of a dual encoder.

    The loss is cross-entropy with the annotated answers as soft targets, summed with their weights and averaged over
    the questions of the batch. An annotated answer outside the vocabulary adds nothing to the loss, and in evaluation
    its question counts as wrong. The head is part of what is trained and saved, with every method.

    Source: the classifier convention of specs/datasets.md sections 3.1 and 5.4; the fusion is ours (`AnswerHead`).

    Args:
        answer_list: a list of answers, or an annotation file whose most frequent answers are taken
            (`petl_bench.data.answers.read_vocabulary`).
        max_answers: how many answers to take from an annotation file; null for a list.
        hidden_dim: of the head.
        dropout: of the head.
        score: `exact_match` (video QA), or `vqa` (the official accuracy of VQAv2).

    Raises:
        UsageError: if an argument is out of range.
        DataError: if the answer list cannot be read.
    """

    name = "qa_classifier"
    texts = "questions"
    tie_rule = "the answer listed first"
    monitor = "accuracy"

    def __init__(
        self,
        answer_list: Path,
        max_answers: int | None = None,
        hidden_dim: int = 512,
        dropout: float = 0.1,
        score: Literal["exact_match", "vqa"] = "exact_match",
    ) -> None:
        super().__init__()
        if hidden_dim < 1 or not 0 <= dropout < 1:
            raise UsageError(f"task.hidden_dim {hidden_dim} must be positive, and task.dropout {dropout} in [0, 1)")
        self.vocabulary = read_vocabulary(Path(answer_list).expanduser(), max_answers)
        self.hidden_dim, self.dropout = hidden_dim, dropout
        self.metric_version = _VERSIONS[score]
        self.metric = AnswerMetric(_SCORES[score], self.vocabulary.answers)
        self._videos = 0

    @property
    def identity(self) -> str:
        return f"{self.name} with answers {self.vocabulary.sha256[:16]}"

    def prepare(self, backbone: Backbone) -> None:
        self.head = AnswerHead(backbone.embed_dim, self.hidden_dim, len(self.vocabulary), self.dropout)

    def unread(self, backbone: Backbone) -> list[nn.Parameter]:
        return [backbone.logit_scale]

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        video = backbone.encode_video(batch.frames, batch.frame_mask)
        text = backbone.encode_text(batch.ids, batch.text_mask)
        logits = self.head(video.pooled, text.pooled)  # (B, A)
        targets = self._targets(batch.questions).to(logits)
        return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean(), {}

    def _targets(self, questions: Sequence[Question]) -> Tensor:
        """Weights of the annotated answers (M, A)."""
        targets = torch.zeros(len(questions), len(self.vocabulary))
        for row, question in enumerate(questions):
            for answer, weight in question.weights.items():
                if answer in self.vocabulary.index:
                    targets[row, self.vocabulary.index[answer]] = weight
        return targets

    def expect(self, videos: int | None, texts: int | None) -> None:
        self._videos, self.metric.expected = videos or 0, texts

    def update(self, backbone: Backbone, batch: Batch) -> None:
        questions = batch.questions
        self.metric.update(
            batch.text_index, self._answer(backbone, batch), [q.answers for q in questions], [q.type for q in questions]
        )

    def _answer(self, backbone: Backbone, batch: Batch) -> list[str | None]:
        """The most likely answer to each question; None where its video could not be read."""
        video = backbone.encode_video(batch.frames, batch.frame_mask)
        text = backbone.encode_text(batch.ids, batch.text_mask)
        clip = (batch.text_video[:, None] == batch.video_index).int().argmax(dim=1)  # (M,) row of the question's clip
        logits = self.head(video.pooled[clip], text.pooled)
        read = batch.decoded[clip]
        if not logits[read].isfinite().all():
            raise NonFiniteError("NaN or infinite logits of answers; check the model")
        best = logits.argmax(dim=-1)
        return [
            self.vocabulary.answers[place] if ok else None
            for place, ok in zip(best.tolist(), read.tolist(), strict=True)
        ]

    def compute(self) -> Evaluation:
        result = self.metric.compute()
        vocabulary = {
            "file": self.vocabulary.file,
            "sha256": self.vocabulary.sha256,
            "size": len(self.vocabulary),
            "coverage": result.coverage,
        }
        return Evaluation(
            metrics={"accuracy": result.accuracy}
            | {f"accuracy_{name}": accuracy for name, accuracy in result.per_type.items()},
            record={
                "accuracy": result.accuracy,
                "per_type": result.per_type,
                "n_per_type": dict(Counter(result.types.tolist())),
                "n": len(result.scores),
                "vocabulary": vocabulary,
            },
            ranks={
                "correct": result.scores,
                "question_type": result.types,
                "prediction": result.predictions,
            },
            inference={"rerank_k": None, "rerank_beta": None, "dual_softmax": False, "pooling": "mean"},
            videos=self._videos,
        )

    def reset(self) -> None:
        self.metric.reset()

    def predict(self, backbone: Backbone, batch: Batch) -> list[tuple[int, str]]:
        """Question ids and answers; an empty answer where the video could not be read."""
        answers = self._answer(backbone, batch)
        return [(question.id, answer or "") for question, answer in zip(batch.questions, answers, strict=True)]

    def write_predictions(self, predictions: list[list[tuple[int, str]]], folder: Path) -> str:
        """`answers.json`, the form that EvalAI takes for VQAv2 test."""
        path = folder / "answers.json"
        count = write_submission(path, (pair for batch in predictions for pair in batch))
        return f"answers to {count} questions: {path}"
