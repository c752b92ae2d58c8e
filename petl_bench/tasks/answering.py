"""How an answer decoder finds answers: it writes them, or ranks those of a list; and what it is trained by."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from petl_bench.backbones.base import AnswerDecoder, Backbone
from petl_bench.configurable import Configurable
from petl_bench.data.answers import Vocabulary, find_answer_list, read_vocabulary
from petl_bench.data.batch import Batch
from petl_bench.inputs import Words, sent
from petl_bench.nn.transformer import Memory
from petl_bench.ranges import Count, Size, TextLength
from petl_bench.tasks.base import present
from petl_bench.tasks.beam_search import Beams, beam_search
from petl_bench.tasks.losses import answer_losses
from petl_bench.tasks.questions import Answer

#: questions that are read and searched at once
CHUNK = 128
#: questions whose answers are sorted by length before they are scored
QUESTIONS = 16
#: pairs of a question and an answer that are scored at once
PAIRS = 512


class Inference(Configurable, ABC):
    """How answers are found. What is trained does not depend on it."""

    #: tokens of an answer, its start and end included, for which the cost is counted
    max_length: int
    #: what the scores of answers are
    scored_by: ClassVar[str]

    def read(self, root: Path | None) -> Vocabulary | None:
        """The answers that can be given; None where any text can.

        Args:
            root: folder that paths are relative to; None is the current one.

        Raises:
            DataError: if they cannot be read.
        """
        return None

    @abstractmethod
    def describe(self, answers: Sequence[str], label_smoothing: float) -> str:
        """For the record of a run: what changes the figures of one and the same trained model."""

    @abstractmethod
    def find(
        self,
        decoder: AnswerDecoder,
        states: Memory,
        answers: Sequence[str],
        words: Words | None,
        label_smoothing: float,
        most: int,
    ) -> list[tuple[Answer, ...]]:
        """Answers to Q questions, the best of each first.

        Args:
            decoder: of the backbone.
            states: (Q, N, D) of questions that have read their clips, and which are tokens of the question.
            answers: of what `read` gave; empty where any text can be given.
            words: the same as they are decoded, (A, n); None where there are none.
            label_smoothing: of training.
            most: answers that are wanted of each question.
        """


class Generate(Inference):
    """Any text is an answer: beam search for the likeliest one.

    In the released code questions are unmasked here, so that their padding is read; ours are not. Answers are the
    tokeniser's texts: lower case, `t - shirt`.

    Args:
        num_beams: sequences that are followed; 1 takes the likeliest token each time (Aurora), BLIP has 3.
        max_length: tokens of an answer, its start and end included.
    """

    scored_by = "mean log-probability of a token"

    def __init__(self, num_beams: Size = 3, max_length: TextLength = 10) -> None:
        self.num_beams, self.max_length = num_beams, max_length

    def describe(self, answers: Sequence[str], label_smoothing: float) -> str:
        return f"generate, num_beams {self.num_beams}, max_length {self.max_length}"

    def find(
        self,
        decoder: AnswerDecoder,
        states: Memory,
        answers: Sequence[str],
        words: Words | None,
        label_smoothing: float,
        most: int,
    ) -> list[tuple[Answer, ...]]:
        ids, scores = (part[:, :most] for part in generate(decoder, states, self.num_beams, self.max_length))
        texts = iter(decoder.answer_texts(ids.flatten(0, 1)))
        return [_distinct((next(texts), score) for score in row) for row in scores.tolist()]


class Rank(Inference):
    """The best answer of a list: of the `k` whose first token is most likely, the one that is likeliest as a whole.

    Log-probabilities are smoothed as in training.

    Args:
        answer_list: a list of answers, or an annotation file (`petl_bench.data.answers.read_vocabulary`); absolute, or
            relative to the task's `root`.
        max_answers: how many of the most frequent answers to take from an annotation file; null for a list.
        k: answers whose whole log-probability is computed; null for all.
    """

    max_length = 10
    scored_by = "log-probability"

    def __init__(self, answer_list: Path, max_answers: Count | None = None, k: Count | None = 128) -> None:
        self.answer_list, self.max_answers, self.k = answer_list, max_answers, k

    def read(self, root: Path | None) -> Vocabulary:
        return read_vocabulary(find_answer_list(self.answer_list, root), self.max_answers)

    def describe(self, answers: Sequence[str], label_smoothing: float) -> str:
        return f"rank, k_test {self.k or 'all'} of {len(answers)}, label_smoothing {label_smoothing}"

    def find(
        self,
        decoder: AnswerDecoder,
        states: Memory,
        answers: Sequence[str],
        words: Words | None,
        label_smoothing: float,
        most: int,
    ) -> list[tuple[Answer, ...]]:
        assert words is not None, "`read` gives answers"
        places, scores = rank(decoder, states, words, self.k, label_smoothing)
        return [
            tuple(Answer(answers[int(place)], score) for place, score in zip(*row, strict=True))
            for row in zip(places[:, :most].tolist(), scores[:, :most].tolist(), strict=True)
        ]


def _distinct(scored: Iterable[tuple[str, float]]) -> tuple[Answer, ...]:
    """What one search found; of answers that are spelt alike the best one."""
    found: dict[str, float] = {}
    for text, score in scored:
        if score > -math.inf:
            found.setdefault(text, score)
    return tuple(Answer(*one) for one in found.items())


def generate(decoder: AnswerDecoder, states: Memory, num_beams: int, max_length: int) -> Beams:
    """Likely answers to questions, by beam search.

    Args:
        decoder: of the backbone.
        states: (Q, N, D), as `Fusion.fuse` gives them, and which are tokens of the question.
        num_beams: K.
        max_length: n, tokens of an answer with its start and end.
    """
    of_beams = states.select(torch.arange(len(states.tokens), device=states.tokens.device).repeat_interleave(num_beams))
    return beam_search(
        lambda ids: decoder.decode_next(ids, of_beams),
        questions=len(states.tokens),
        start=decoder.start_token,
        end=decoder.end_token,
        pad=decoder.pad_token,
        beams=num_beams,
        max_length=max_length,
        device=states.tokens.device,
    )


def rank(
    decoder: AnswerDecoder, states: Memory, answers: Words, k: int | None, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The best of A given answers to each question.

    Args:
        decoder: of the backbone.
        states: (Q, N, D), as `Fusion.fuse` gives them, and which are tokens of the question.
        answers: (A, n).
        k: answers of which the whole is scored, those whose first token is most likely; None for all.
        label_smoothing: see `answer_losses`.

    Returns:
        Answers (Q, k), the best of each question first (of equal ones that with the likelier first token), and their
        scores (Q, k).
    """
    starts = answers.ids[:1, :1].expand(len(states.tokens), -1)
    first = decoder.decode_next(starts, states)[:, answers.ids[:, 1]]  # (Q, A)
    candidates = first.argsort(dim=1, descending=True, stable=True)[:, :k]  # (Q, k)
    parts = []
    for start in range(0, len(candidates), QUESTIONS):
        group = slice(start, start + QUESTIONS)
        own = candidates[group]
        words, counts = answers.select(own.flatten()), [own.shape[1]] * len(own)
        parts.append(log_probabilities(decoder, states.select(group), words, counts, label_smoothing).view_as(own))
    scores, order = torch.cat(parts).sort(dim=1, descending=True, stable=True)
    return candidates.gather(1, order), scores


def log_probabilities(
    decoder: AnswerDecoder, states: Memory, answers: Words, counts: Sequence[int], label_smoothing: float
) -> Tensor:
    """Of answers to questions, summed over tokens: (P,), in at least fp32.

    `PAIRS` of like length are decoded at once, whichever questions they answer. Most of the memory is what logits over
    V tokens and their losses take, up to three times `PAIRS` * n * V numbers in fp32: 0.8 GB for BLIP's vocabulary
    and n = 5.

    Args:
        decoder: of the backbone.
        states: (Q, N, D), as `Fusion.fuse` gives them, and which are tokens of the question.
        answers: (P, n), those to one question after another.
        counts: answers to each question (Q,), P in all.
        label_smoothing: see `answer_losses`.
    """
    question = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))  # (P,)
    question = sent(question, states.tokens.device)
    by_length = answers.mask.sum(dim=1).argsort(stable=True)
    parts = []
    for pairs in by_length.split(PAIRS):
        own = answers.select(pairs).without_padding()
        logits = decoder.decode(own, states.select(question[pairs]))
        parts.append(-answer_losses(logits, own.ids, own.mask, label_smoothing))
    return torch.cat(parts)[by_length.argsort()]


def read_questions(backbone: Backbone, batch: Batch) -> tuple[Tensor, Memory]:
    """The m questions about clips that could be read, at least one: places in the batch (m,), and states (m, N, D)."""
    memory = backbone.encode_video_tokens(batch.clips.select(batch.decoded)).memory
    questions = batch.words.without_padding()
    fusion = present(backbone.fusion)
    places, states = [], []
    for clip, video in enumerate(batch.video_index[batch.decoded]):
        one = memory.select(slice(clip, clip + 1))  # whose keys and values are computed once for all its questions
        own = (batch.text_video == video).nonzero()[:, 0]
        places.append(own)
        states += [fusion.fuse(questions.select(rows), one) for rows in own.split(CHUNK)]
    order = torch.cat(places)
    return order, Memory(torch.cat(states), questions.mask[order])


def loss_of_answers(
    backbone: Backbone, batch: Batch, answers: Sequence[Mapping[str, float]], label_smoothing: float
) -> Tensor:
    """Cross-entropy of the tokens of every answer, summed, times its weight, summed, over the number of questions.

    Args:
        backbone: with an answer decoder.
        batch: of training, a question for each clip.
        answers: to each question, by their weights.
        label_smoothing: see `answer_losses`.
    """
    fusion, decoder = present(backbone.fusion), present(backbone.answers)
    questions = batch.words.without_padding()
    states = fusion.fuse(questions, backbone.encode_video_tokens(batch.clips).memory)  # (B, N, D)
    words = decoder.answer_words([answer for weights in answers for answer in weights])  # (A, n)
    of = torch.tensor([row for row, weights in enumerate(answers) for _ in weights])  # the question of each answer
    of_answers = Memory(states, questions.mask).select(sent(of, states.device))
    logits = decoder.decode(words, of_answers)
    losses = answer_losses(logits, words.ids, words.mask, label_smoothing)
    weight = torch.tensor([weight for weights in answers for weight in weights.values()], dtype=losses.dtype)
    return (sent(weight, losses.device) * losses).sum() / len(answers)


def after_vision_of_answers(backbone: Backbone, batch: Batch, memory: Memory | None, max_length: int) -> None:
    """A question reads the clip, and one answer of so many tokens is decoded (`Task.after_vision`)."""
    assert memory is not None  # whoever has a decoder has tokens
    states = Memory(present(backbone.fusion).fuse(batch.words, memory), batch.words.mask)
    answer = Words(batch.words.ids[:, :max_length], batch.words.mask[:, :max_length])
    present(backbone.answers).decode(answer, states)
