"""Question answering by a classifier over a fixed vocabulary of answers, for every backbone with two encoders."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.answers import find_answer_list, read_vocabulary
from petl_bench.data.batch import Batch, Question, rows_of_clips
from petl_bench.errors import NonFiniteError
from petl_bench.inputs import sent
from petl_bench.ranges import Count, ShareBelowOne, Size
from petl_bench.tasks.base import present
from petl_bench.tasks.qa import QuestionAnswering, Score
from petl_bench.tasks.questions import Answer


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


class AnswerClassifier(QuestionAnswering):
    """Answers from a fixed vocabulary, by a head on the pooled features of a dual encoder.

    The loss is cross-entropy with the annotated answers as soft targets, summed with their weights and averaged over
    the questions of the batch. An annotated answer outside the vocabulary adds nothing to the loss, and in evaluation
    its question counts as wrong. The head is part of what is trained and saved, with every method.

    Source: the convention of video QA (ClipBERT, all-in-one, FrozenBiLM), by which an answer outside the vocabulary is
    wrong; the fusion is ours (`AnswerHead`).

    Args:
        answer_list: a list of answers, or an annotation file whose most frequent answers are taken
            (`petl_bench.data.answers.read_vocabulary`); absolute, or relative to `root`.
        max_answers: how many answers to take from an annotation file; null for a list.
        hidden_dim: of the head.
        dropout: of the head.
        score: `exact_match` (video QA), or `vqa` (the official accuracy of VQAv2).
        root: folder of the dataset; linked from `data.root`. Null is the current folder.

    Raises:
        DataError: if the answer list cannot be read.
    """

    name = "qa_classifier"
    tie_rule = "the answer listed first"
    pooling = "mean"
    needs = ("joint",)

    def __init__(
        self,
        answer_list: Path,
        max_answers: Count | None = None,
        hidden_dim: Size = 512,
        dropout: ShareBelowOne = 0.1,
        score: Score = "exact_match",
        root: Path | None = None,
    ) -> None:
        vocabulary = read_vocabulary(find_answer_list(answer_list, root), max_answers)
        super().__init__(score, vocabulary)
        self.vocabulary = vocabulary  # here there always is one
        self.hidden_dim, self.dropout = hidden_dim, dropout

    @classmethod
    def tiny(cls) -> AnswerClassifier:
        """With two answers."""
        with tempfile.TemporaryDirectory() as folder:
            answers = Path(folder) / "answers.json"
            answers.write_text('["red", "blue"]', encoding="utf-8")
            return cls(answers)

    @property
    def scored_by(self) -> str:
        return "probability"

    @property
    def answering(self) -> str:
        return "classifier"

    def untaught(self, batch: int, processes: int, videos: int) -> str | None:
        if len(self.vocabulary) < 2:
            return (
                f"task.answer_list gives {len(self.vocabulary)} answer: a classifier chooses between at least 2 (see "
                "task.max_answers)"
            )
        return None

    @property
    def identity(self) -> str:
        return f"{self.name} with answers {self.vocabulary.sha256[:16]}"

    def prepare(self, backbone: Backbone) -> None:
        self.head = AnswerHead(backbone.embed_dim, self.hidden_dim, len(self.vocabulary), self.dropout)

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        fusion = [] if backbone.fusion is None else backbone.fusion.fusion_parameters()
        return [*present(backbone.joint).scale_parameters(), *fusion]

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        video = backbone.encode_video(batch.clips)
        text = backbone.encode_text(batch.words)
        logits = self.head(video.pooled, text.pooled)  # (B, A)
        targets = sent(self._targets(batch.questions), logits.device).to(logits.dtype)
        return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean(), {}

    def _targets(self, questions: Sequence[Question]) -> Tensor:
        """Weights of the annotated answers (M, A)."""
        targets = torch.zeros(len(questions), len(self.vocabulary))
        for row, question in enumerate(questions):
            for answer, weight in question.weights.items():
                if answer in self.vocabulary.index:
                    targets[row, self.vocabulary.index[answer]] = weight
        return targets

    def ranked(self, backbone: Backbone, batch: Batch, most: int) -> list[tuple[Answer, ...]]:
        video = backbone.encode_video(batch.clips)
        text = backbone.encode_text(batch.words)
        clip = rows_of_clips(batch)
        logits = self.head(video.pooled[clip], text.pooled)
        read = batch.decoded[clip]
        if not logits[read].isfinite().all():
            raise NonFiniteError("NaN or infinite logits of answers; check the model")
        order = logits.argsort(dim=-1, descending=True, stable=True)[:, :most]
        shares = logits.softmax(dim=-1).gather(1, order)
        found = zip(order.tolist(), shares.tolist(), read.tolist(), strict=True)
        return [self._named(places, own) if ok else () for places, own, ok in found]

    def _named(self, places: Sequence[int], shares: Sequence[float]) -> tuple[Answer, ...]:
        return tuple(Answer(self.vocabulary.answers[place], share) for place, share in zip(places, shares, strict=True))
