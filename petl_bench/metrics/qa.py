"""Question answering: accuracy of one answer per question, over all questions of a split.

Two scores of one answer exist:
`exact_match`, for open-ended video QA: the answer is right if it is the annotated string, without any normalisation;
`vqa_accuracy`, for VQAv2: the share of left-out annotators it would agree with, as the official scorer computes it.

Every question counts, also one whose annotated answer no vocabulary holds, and one whose video could not be read:
both are wrong. Leaving them out is another protocol, with higher figures.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from petl_bench.errors import DataError
from petl_bench.metrics.questions import QuestionMetric

Score = Callable[[str, Sequence[str]], float]

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COUNTED = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(value) for value, word in enumerate(_COUNTED.split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
#: each is recognised with any one of its apostrophes missing
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    form[:place] + form[place + 1 :]: form
    for form in _CONTRACTED.split()
    for place, character in enumerate(form)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # the other way round in the official table
#: the official scorer passes a flag where the number of replacements stands
_MOST_PERIODS = 32


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is an annotated answer, character by character, else 0.0."""
    return float(prediction in answers)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official VQAv2 accuracy of one prediction, 0 to 1; LAVIS' copy of the scorer gives other figures.

    The mean, over leaving each annotator out, of min(1, agreeing others / 3). Prediction and answers are normalised
    only if the annotators disagree.

    Source: the official scorer, GT-Vision-Lab/VQA, `PythonEvaluationTools/vqaEvaluation/vqaEval.py`.

    Args:
        prediction: one answer.
        answers: of all annotators (ten in VQAv2); at least one.
    """
    prediction, *answers = (re.sub("[\n\t]", " ", text).strip() for text in (prediction, *answers))
    if len(set(answers)) > 1:
        prediction, *answers = (normalise_words(normalise_punctuation(text)) for text in (prediction, *answers))
    agree = answers.count(prediction)
    with_one_left_out = agree * min(1.0, (agree - 1) / 3) + (len(answers) - agree) * min(1.0, agree / 3)
    return with_one_left_out / len(answers)


def normalise_punctuation(text: str) -> str:
    """Removes or blanks the marks of the official scorer, and removes periods that no digit follows."""
    has_number = re.search(r"\d,\d", text) is not None
    out = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_space or has_number else " ")
    return re.sub(r"\.(?!\d)", "", out, count=_MOST_PERIODS)


def normalise_words(text: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes put back into contractions."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def mean_by_group(scores: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Mean score in percent of each group, the largest group first; scores (M,) from 0 to 1, names of groups (M,)."""
    sizes = Counter(groups.tolist())
    return {name: 100 * float(scores[groups == name].mean()) for name, _ in sizes.most_common()}


def submission(answers: Iterable[tuple[int | str, str]]) -> str:
    """The text of the result file that EvalAI takes for VQAv2 test: `[{"question_id": int, "answer": str}]`.

    Datasets whose questions have texts for ids give these.

    Raises:
        DataError: if a question is answered twice.
    """
    records = [{"question_id": question, "answer": answer} for question, answer in answers]
    twice = [question for question, count in Counter(r["question_id"] for r in records).items() if count > 1]
    if twice:
        raise DataError(f"question {twice[0]} has more than one answer; question ids must be unique in their file")
    return json.dumps(records)


@dataclass
class AnswerResult:
    """What an evaluation found; row i of each array is the question with sample index i.

    Attributes:
        accuracy: mean score of all questions, in percent.
        per_type: the same by question type, the most frequent type first.
        coverage: questions with an annotated answer in the vocabulary, in percent: what exact match can reach at most;
            100 without a vocabulary.
        scores: float64 (M,), 0 to 1.
        types: question types, text (M,).
        predictions: answers given, text (M,); empty where the video could not be read.
        groups: of question types, text (M,); empty where there are none.
        exact_match: answers that are an annotated one to the letter, in percent, where that is not the score.
    """

    accuracy: float
    per_type: dict[str, float]
    coverage: float
    scores: np.ndarray
    types: np.ndarray
    predictions: np.ndarray
    groups: np.ndarray
    exact_match: float | None = None


class AnswerMetric(QuestionMetric):
    """Accuracy of answers, keyed by sample index: any number of processes gives the same result.

    Args:
        score: of one prediction against the annotated answers, 0 to 1.
        vocabulary: the answers that can be given, for `coverage`; None where any text can.
        expected: number of questions of the split, or None for one more than the largest index seen.
    """

    kind = "answer"
    covered: list[Tensor]

    def __init__(self, score: Score, vocabulary: Collection[str] | None, expected: int | None = None) -> None:
        super().__init__(expected, ("covered",))
        self.score = score
        self.vocabulary = None if vocabulary is None else frozenset(vocabulary)

    def update(
        self,
        index: Tensor,
        predictions: Sequence[str | None],
        answers: Sequence[Sequence[str]],
        types: Sequence[str],
        groups: Sequence[str] | None = None,
    ) -> None:
        """Adds questions.

        Args:
            index: sample index (M,).
            predictions: one per question; None where the video could not be read, which is wrong.
            answers: as annotated, one or more per question.
            types: question types.
            groups: of the types; None, or empty texts, where there are none.

        Raises:
            DataError: if a question has no annotated answer.
        """
        if not all(answers):
            raise DataError("a question has no annotated answer, so accuracy is unknown; `predict` writes the answers")
        scores = self._scores(predictions, answers, types)
        covered = [self.vocabulary is None or not self.vocabulary.isdisjoint(truth) for truth in answers]
        groups = [""] * len(types) if groups is None else groups
        self._add(index, scores, [given or "" for given in predictions], types, groups)
        self.covered.append(torch.tensor(covered, dtype=torch.bool))

    def _scores(
        self, predictions: Sequence[str | None], answers: Sequence[Sequence[str]], types: Sequence[str]
    ) -> list[float]:
        pairs = zip(predictions, answers, strict=True)
        return [0.0 if given is None else self.score(given, truth) for given, truth in pairs]

    def compute(self) -> AnswerResult:
        """Accuracy over the questions of all processes.

        Raises:
            DistributedError: a sample index is missing or occurs more than once.
            DataError: there is no question.
        """
        order = self._order()
        scores = self._numbers(self.scores, order)
        types, groups, predictions = self._texts(order)
        return AnswerResult(
            accuracy=100 * float(scores.mean()),
            per_type=mean_by_group(scores, types),
            coverage=100 * float(dim_zero_cat(self.covered).double().mean()),
            scores=scores,
            types=types,
            predictions=predictions,
            groups=groups,
        )
