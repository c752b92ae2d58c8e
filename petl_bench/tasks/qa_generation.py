"""Question answering by an answer decoder: any text is an answer (`generate`), or the best one of a list (`rank`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP
from petl_bench.data.answers import Vocabulary, find_answer_list, read_vocabulary
from petl_bench.data.batch import Batch
from petl_bench.errors import DataError, NonFiniteError, UsageError
from petl_bench.inputs import Words
from petl_bench.nn.transformer import Memory
from petl_bench.ranges import Count, ShareBelowOne, Size
from petl_bench.tasks.beam_search import beam_search
from petl_bench.tasks.losses import answer_losses
from petl_bench.tasks.qa import QuestionAnswering, Score

Inference = Literal["rank", "generate"]

#: answers that are scored, and questions that are searched, at once
_CHUNK = 128


class AnswerGeneration(QuestionAnswering):
    """A question reads all frames of its clip, and a decoder that reads the question's states writes the answer.

    Loss: cross-entropy of the tokens of every annotated answer, smoothed, summed over tokens, times the weight of the
    answer, summed, over the number of questions. The released code divides by questions times frames for video, a slip
    (its own tensor of frames has been reshaped) that only scales the gradient; Aurora's weight of 0.05 does the same.

    Answers: `generate` searches with beams; in the released code questions are unmasked there, so that their padding
    is read, and not here. Its answers are the tokeniser's texts: lower case, `t - shirt`. `rank` takes the `k_test`
    answers of a list whose first token is most likely, and of them the one with the highest log-probability, smoothed
    as in training.

    Source: specs/uniadapter.md section 5 (BLIP, Li et al. 2022; UniAdapter).

    Args:
        inference: `generate` or `rank`. What is trained does not depend on it.
        answer_list: of `rank`, null for `generate`: a list of answers, or an annotation file
            (`petl_bench.data.answers.read_vocabulary`); absolute, or relative to `root`.
        max_answers: how many of the most frequent answers to take from an annotation file; null for a list.
        k_test: of `rank`: answers whose whole log-probability is computed; null for all.
        num_beams: of `generate`: sequences that are followed; 1 takes the likeliest token each time (Aurora).
        max_length: of `generate`: tokens of an answer, its start and end included.
        label_smoothing: share of the target that is spread over the vocabulary (BLIP: 0.1, Aurora: 0).
        score: `exact_match` (video QA), or `vqa` (the official accuracy of VQAv2).
        root: folder of the dataset; linked from `data.root`. Null is the current folder.

    Raises:
        UsageError: for a length without room for an answer, or a backbone without an answer decoder.
        DataError: if the answer list cannot be read, or a training question has no answer.
    """

    name = "qa_generation"
    chooses = True
    tie_rule = "the answer found first"

    def __init__(
        self,
        inference: Inference = "generate",
        answer_list: Path | None = None,
        max_answers: Count | None = None,
        k_test: Count | None = 128,
        num_beams: Size = 3,
        max_length: Size = 10,
        label_smoothing: ShareBelowOne = 0.1,
        score: Score = "exact_match",
        root: Path | None = None,
    ) -> None:
        super().__init__(score, _vocabulary(inference, answer_list, max_answers, root))
        if max_length < 3:
            raise UsageError(f"task.max_length is {max_length}: it counts the start and the end, so at least 3")
        self.k_test, self.num_beams, self.max_length = k_test, num_beams, max_length
        self.label_smoothing = label_smoothing
        self._listed: Words | None = None

    @property
    def answering(self) -> str:
        if self.vocabulary is None:
            return f"generate, num_beams {self.num_beams}, max_length {self.max_length}"
        return f"rank, k_test {self.k_test or 'all'} of {len(self.vocabulary)}, label_smoothing {self.label_smoothing}"

    def prepare(self, backbone: Backbone) -> None:
        _with_decoder(backbone)

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        blip = _with_decoder(backbone)
        questions = batch.words.without_padding()
        states = blip.fuse(questions, blip.encode_video_tokens(batch.clips).memory)  # (B, N, D)

        weighted = [question.weights for question in batch.questions]
        if not all(weighted):
            raise DataError("a training question has no annotated answer: give a file with answers")
        answers = blip.answer_words([answer for weights in weighted for answer in weights])  # (A, n)
        of = [row for row, weights in enumerate(weighted) for _ in weights]  # the question of each answer
        logits = blip.decode(answers, Memory(states[of], questions.mask[of]))
        losses = answer_losses(logits, *answers, self.label_smoothing)
        weight = torch.tensor([weight for weights in weighted for weight in weights.values()]).to(losses)
        return (weight * losses).sum() / len(weighted), {}

    def answer(self, backbone: Backbone, batch: Batch) -> list[str | None]:
        blip = _with_decoder(backbone)
        found: list[str | None] = [None] * len(batch.questions)
        if not batch.decoded.any():
            return found
        places, states = _read_questions(blip, batch)
        if not states.tokens.isfinite().all():
            raise NonFiniteError("NaN or infinite states of questions; check the model")
        for start in range(0, len(places), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            for place, answer in zip(places[chunk].tolist(), self._find(blip, states.select(chunk)), strict=True):
                found[place] = answer
        return found

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        blip = _with_decoder(backbone)
        assert memory is not None
        states = Memory(blip.fuse(batch.words, memory), batch.words.mask)
        blip.decode(Words(*(part[:, : self.max_length] for part in batch.words)), states)

    def _find(self, blip: BLIP, states: Memory) -> list[str]:
        """Answers to questions with these states."""
        if self.vocabulary is None:
            return blip.answer_texts(generate(blip, states, self.num_beams, self.max_length))
        if self._listed is None:
            self._listed = blip.answer_words(self.vocabulary.answers)
        best, _ = rank(blip, states, self._listed, self.k_test, self.label_smoothing)
        return [self.vocabulary.answers[place] for place in best.tolist()]


def _read_questions(blip: BLIP, batch: Batch) -> tuple[Tensor, Memory]:
    """The m questions about clips that could be read: places in the batch (m,), and their states, (m, N, D)."""
    memory = blip.encode_video_tokens(batch.clips.select(batch.decoded)).memory
    questions = batch.words.without_padding()
    places, states = [], []
    for clip, video in enumerate(batch.video_index[batch.decoded]):
        one = memory.select(slice(clip, clip + 1))  # whose keys and values are computed once for all its questions
        own = (batch.text_video == video).nonzero()[:, 0]
        places.append(own)
        states += [blip.fuse(questions.select(rows), one) for rows in own.split(_CHUNK)]
    order = torch.cat(places)
    return order, Memory(torch.cat(states), questions.mask[order])


def generate(blip: BLIP, states: Memory, num_beams: int, max_length: int) -> Tensor:
    """Likely answers to questions, by beam search.

    Args:
        blip: with an answer decoder.
        states: (Q, N, D), as `fuse` gives them, and which are tokens of the question.
        num_beams: K.
        max_length: n, tokens of an answer with its start and end.

    Returns:
        Token ids (Q, n), from [DEC] to [SEP], then padding.
    """
    of_beams = Memory(*(x.repeat_interleave(num_beams, dim=0) for x in (states.tokens, states.mask)))
    return beam_search(
        lambda ids: blip.decode_next(ids, of_beams),
        questions=len(states.tokens),
        start=blip.dec_token,
        end=blip.sep_token,
        pad=blip.pad_token,
        beams=num_beams,
        max_length=max_length,
        device=states.tokens.device,
    )


def rank(
    blip: BLIP,
    states: Memory,
    answers: Words,
    k_test: int | None,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """The best of A given answers to each question.

    Args:
        blip: with an answer decoder.
        states: (Q, N, D), as `fuse` gives them, and which are tokens of the question.
        answers: (A, n).
        k_test: answers of which the whole is scored, those whose first token is most likely; None for all.
        label_smoothing: see `answer_losses`.

    Returns:
        Best answer of each question (Q,), and the scores (Q, k) of the k candidates, most likely first token first.
    """
    starts = answers.ids[:1, :1].expand(len(states.tokens), -1)
    first = blip.decode_next(starts, states)[:, answers.ids[:, 1]]  # (Q, A)
    candidates = first.argsort(dim=1, descending=True, stable=True)[:, :k_test]  # (Q, k)
    scores = torch.stack(
        [
            _log_probabilities(blip, states.select(slice(row, row + 1)), answers.select(own), label_smoothing)
            for row, own in enumerate(candidates)
        ]
    )
    best = scores.argmax(dim=1, keepdim=True)
    return candidates.gather(1, best)[:, 0], scores


def _log_probabilities(blip: BLIP, states: Memory, answers: Words, label_smoothing: float) -> Tensor:
    """Of k answers (k, n) to one question (1, N, D): (k,)."""
    parts = []
    for start in range(0, len(answers.ids), _CHUNK):
        own = answers.select(slice(start, start + _CHUNK)).without_padding()
        parts.append(-answer_losses(blip.decode(own, states), *own, label_smoothing))
    return torch.cat(parts)


def _vocabulary(
    inference: Inference, answer_list: Path | None, max_answers: int | None, root: Path | None
) -> Vocabulary | None:
    if inference == "rank":
        if answer_list is None:
            raise UsageError("task.inference rank needs task.answer_list: the answers to choose from")
        return read_vocabulary(find_answer_list(answer_list, root), max_answers)
    if answer_list is not None or max_answers is not None:
        raise UsageError("task.inference generate takes no answer_list and no max_answers: set them to null, or rank")
    return None


def _with_decoder(backbone: Backbone) -> BLIP:
    if isinstance(backbone, BLIP) and backbone.purpose == "qa":
        return backbone
    raise UsageError(
        f"{backbone.name} has no answer decoder: choose backbone/blip_base_qa.yaml, or task/qa_classifier.yaml"
    )
