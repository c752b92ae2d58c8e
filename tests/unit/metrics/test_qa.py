"""Scores of answers by hand, and a metric in which each question counts once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from petl_bench.errors import DataError, DistributedError
from petl_bench.metrics.qa import (
    AnswerMetric,
    exact_match,
    normalise_punctuation,
    normalise_words,
    submission,
    vqa_accuracy,
)


@pytest.mark.parametrize(("agree", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_by_agreeing_annotators(agree: int, accuracy: float) -> None:
    answers = ["dog"] * agree + [f"other {n}" for n in range(10 - agree)]
    assert vqa_accuracy("dog", answers) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("3,000", "3000"),
        ("3, 000", "3 000"),
        ("black,white", "black white"),
        ("t-shirt", "t shirt"),
        ("u.s.a.", "usa"),
        ("2.5", "2.5"),
        ("cant", "can't"),
        ("the Red one", "red 1"),
        ("A, B", "b"),
        ("an", ""),
        ("Im", "im"),  # the official table has the key in upper case, and looks it up in lower case
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_normalisation(text: str, normalised: str) -> None:
    """The official scorer, GT-Vision-Lab/VQA, gives the same."""
    assert normalise_words(normalise_punctuation(text)) == normalised


def test_unanimous_annotators_are_not_normalised() -> None:
    assert vqa_accuracy("2", ["Two"] * 10) == 0
    assert vqa_accuracy("2", ["Two"] * 9 + ["three"]) == 1
    assert vqa_accuracy(" Two\n", ["Two"] * 10) == 1


def test_exact_match_is_exact() -> None:
    assert exact_match("cat", ("cat",)) == 1
    assert [exact_match(text, ("cat",)) for text in ("Cat", "cat ", "ca", "")] == [0, 0, 0, 0]


QUESTIONS = [  # prediction, annotated, type
    ("red", "red", "what"),
    ("blue", "red", "what"),
    ("left", "left", "which"),
    ("red", "crimson", "what"),  # outside the vocabulary
    (None, "up", "which"),  # its video could not be read
]


def metric(order: list[int], batch: int, expected: int | None = None) -> AnswerMetric:
    answers = AnswerMetric(exact_match, ["red", "blue", "left", "up"], expected)
    for rows in torch.tensor(order).split(batch):
        given, truth, types = zip(*(QUESTIONS[row] for row in rows.tolist()), strict=True)
        answers.update(rows, given, [(answer,) for answer in truth], types)
    return answers


@pytest.mark.parametrize(("order", "batch"), [([0, 1, 2, 3, 4], 5), ([4, 2, 0, 3, 1], 2)])
def test_every_question_counts_in_any_order(order: list[int], batch: int) -> None:
    result = metric(order, batch, expected=5).compute()
    assert result.scores.tolist() == [1, 0, 1, 0, 0]
    assert result.accuracy == pytest.approx(40)
    assert result.per_type == pytest.approx({"what": 100 / 3, "which": 50})
    assert list(result.per_type) == ["what", "which"]
    assert result.coverage == pytest.approx(80)
    assert result.types.tolist() == [kind for _, _, kind in QUESTIONS]
    assert result.predictions.tolist() == ["red", "blue", "left", "red", ""]


def test_any_answer_can_be_given_without_a_vocabulary() -> None:
    answers = AnswerMetric(exact_match, None)
    answers.update(torch.arange(2), ["red", "crimson"], [("crimson",), ("crimson",)], ["what", "what"])
    result = answers.compute()
    assert (result.accuracy, result.coverage) == (50, 100)


def test_texts_survive_as_they_are() -> None:
    texts = ["étouffée", "", "two words", "a\nb", "苹果"]
    answers = AnswerMetric(exact_match, texts)
    answers.update(torch.arange(5), texts, [(text,) for text in texts], texts)
    result = answers.compute()
    assert result.predictions.tolist() == result.types.tolist() == texts
    assert result.accuracy == 100


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 2, 3, 4, 0], "question index 0 was evaluated more than once"),
        ([0, 1, 3, 4], "question index 2 of 5 was not"),
    ],
)
def test_every_index_exactly_once(order: list[int], message: str) -> None:
    with pytest.raises(DistributedError, match=message):
        metric(order, 2, expected=5).compute()


def test_nothing_to_score() -> None:
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(DataError, match="no question"):
        AnswerMetric(exact_match, ["a"]).compute()
    with pytest.raises(DataError, match="no annotated answer"):
        AnswerMetric(vqa_accuracy, ["a"]).update(torch.arange(1), ["a"], [()], ["what"])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 indices"):
        AnswerMetric(exact_match, ["a"]).update(torch.arange(2), ["a"], [("a",)], ["what"])


def test_reset_forgets() -> None:
    answers = metric([0, 1, 2], 3)
    answers.reset()
    answers.update(torch.arange(1), ["left"], [("left",)], ["which"])
    np.testing.assert_array_equal(answers.compute().scores, [1.0])


def test_submission() -> None:
    assert json.loads(submission([(262148000, "yes"), (262148001, 'down "there"')])) == [
        {"question_id": 262148000, "answer": "yes"},
        {"question_id": 262148001, "answer": 'down "there"'},
    ]
    with pytest.raises(DataError, match="question 7 has more than one answer"):
        submission([(7, "a"), (8, "b"), (7, "c")])
