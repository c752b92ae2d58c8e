"""WUPS, the score of open-ended NExT-QA: how alike the words of two answers are by WordNet.

A question counts from 0 to 1, so differences between two runs are tested by sign flips, as of any such score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import cache

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from petl_bench.metrics.qa import AnswerMetric, AnswerResult, exact_match
from petl_bench.metrics.wordnet import WordNet, tokens_of

#: types of NExT-QA that are answered by yes, no or a number: nothing is similar to these
_EXACT = ("DB", "DC")
#: what a similarity below the threshold is multiplied by
_PENALTY = 0.1

Words = Sequence[str]
Similarity = Callable[[str, str], float]


class WUPS:
    """WUPS@0 of one answer against one or two references, the better of which counts.

    The words of an answer, in lower case and their basic form, without stop words, are compared with those of a
    reference (`wups`). Questions of types DB and DC need the same words.

    Source: the official scorer, doc-doc/NExT-OE, `eval_oe.py` and `metrics.py`. Its lemmas are those of the part of
    speech that a tagger finds, which depends on the tagger's release; here they are those of the part of speech of
    which WordNet has most senses (24.1 instead of 24.0 of its HGA's test predictions).

    Args:
        wordnet: where words are looked up.
        stop_words: that do not count, in their basic form.
    """

    def __init__(self, wordnet: WordNet, stop_words: Collection[str]) -> None:
        self.wordnet, self.stop_words = wordnet, frozenset(stop_words)
        self.words = cache(self._words_of)

    @property
    def version(self) -> str:
        """What makes two figures comparable: of the rule, of WordNet's files and of the stop words."""
        listed = "\n".join(sorted(self.stop_words))
        stop_words = hashlib.sha256(listed.encode()).hexdigest()
        lemmas = "lemmas of the part of speech with most senses"
        return f"wups-nextoe/1, {lemmas}, WordNet 3.0 {self.wordnet.sha256[:12]}, stop words {stop_words[:12]}"

    def __call__(self, prediction: str, answers: Sequence[str], type: str) -> float:
        """The score of a prediction, 0 to 1.

        Args:
            prediction: one answer.
            answers: the references.
            type: of the question.
        """
        given = self.words(prediction)
        if type in _EXACT:
            return float(any(given == self.words(answer) for answer in answers))
        return max(wups(given, self.words(answer), self.wordnet.similarity) for answer in answers)

    def _words_of(self, text: str) -> tuple[str, ...]:
        lemmas = (self.wordnet.lemma(word.lower()) for word in tokens_of(text))
        return tuple(lemma for lemma in lemmas if lemma not in self.stop_words)


def wups(one: Words, other: Words, similarity: Similarity, alpha: float = 0.0) -> float:
    """How alike two lists of words are, 0 to 1: the smaller one of both directions; 0 if one is empty.

    In each direction it is the product, over the words of one list, of the similarity to the nearest word of the other
    one. Words that nothing is similar to are skipped, as in the official scorer; 0 if all are.

    Args:
        one: words of an answer.
        other: words of another one.
        similarity: of two different words, 0 to 1.
        alpha: threshold; a similarity below it is multiplied by 0.1.
    """

    def alike(a: str, b: str) -> float:
        found = 1.0 if a == b else similarity(a, b)
        return found if found >= alpha else _PENALTY * found

    def towards(words: Words, others: Words) -> float:
        nearest = [max((alike(word, candidate) for candidate in others), default=0.0) for word in words]
        counted = [value for value in nearest if value > 0]
        product = float(bool(counted))
        for value in counted:
            product *= value
        return product

    return min(towards(one, other), towards(other, one))


class WUPSMetric(AnswerMetric):
    """WUPS of answers in the place of their accuracy, and the share that is a reference to the letter.

    Args:
        score: of one prediction.
        vocabulary: as of `AnswerMetric`.
        expected: as of `AnswerMetric`.
    """

    exact: list[Tensor]

    def __init__(self, score: WUPS, vocabulary: Collection[str] | None, expected: int | None = None) -> None:
        super().__init__(exact_match, vocabulary, expected)
        self.wups = score
        self.add_state("exact", default=[], dist_reduce_fx="cat")

    def _scores(
        self, predictions: Sequence[str | None], answers: Sequence[Sequence[str]], types: Sequence[str]
    ) -> list[float]:
        self.exact.append(torch.tensor(super()._scores(predictions, answers, types), dtype=torch.float64))
        return [
            0.0 if given is None else self.wups(given, truth, kind)
            for given, truth, kind in zip(predictions, answers, types, strict=True)
        ]

    def compute(self) -> AnswerResult:
        """As of `AnswerMetric`, with WUPS as accuracy, and `exact_match`."""
        result = super().compute()
        result.exact_match = 100 * float(dim_zero_cat(self.exact).mean())
        return result
