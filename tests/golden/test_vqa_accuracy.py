"""VQAv2 accuracy, exact match and answer weights against the original scorers (made annotations, golden/README 23)."""

import re
from pathlib import Path

import numpy as np
import pytest

from petl_bench.data.batch import Question
from petl_bench.metrics.qa import exact_match, mean_by_group, normalise_punctuation, normalise_words, vqa_accuracy
from tests.golden.helpers import Case, golden_files

CASES = golden_files("vqa_accuracy*")


@pytest.mark.parametrize("path", CASES)
def test_accuracy_of_each_question(path: Path) -> None:
    case = Case(path)
    expected = case.json["gt_vision_lab"]["evalQA"]
    scores = _scores(case)
    assert len(scores) == len(expected) > 0
    assert {question: round(100 * score, 2) for question, score in scores.items()} == expected


@pytest.mark.parametrize("path", CASES)
@pytest.mark.parametrize(("group", "key"), [("question_type", "perQuestionType"), ("answer_type", "perAnswerType")])
def test_accuracy_overall_and_by_type(path: Path, group: str, key: str) -> None:
    case = Case(path)
    expected = case.json["gt_vision_lab"]["accuracy"]
    scores = np.array(list(_scores(case).values()))
    types = np.array([annotation[group] for annotation in case.json["annotations"]["annotations"]])
    assert round(100 * float(scores.mean()), 2) == expected["overall"]
    assert {name: round(value, 2) for name, value in mean_by_group(scores, types).items()} == expected[key]


@pytest.mark.parametrize("path", CASES)
def test_normalisation(path: Path) -> None:
    for text, punctuation, words in Case(path).json["gt_vision_lab"]["normalise"]:
        assert normalise_punctuation(text) == punctuation
        assert normalise_words(normalise_punctuation(re.sub("[\n\t]", " ", text).strip())) == words


@pytest.mark.parametrize("path", CASES)
def test_exact_match(path: Path) -> None:
    case = Case(path)
    given = _predictions(case)
    _, right, questions, _ = case.json["exact_match_uniadapter"]["printed"]
    targets = case.json["exact_match_uniadapter"]["targets"]
    scores = [exact_match(given[str(target["id"])], (target["answer"],)) for target in targets]
    assert (sum(scores), len(scores)) == (int(right), int(questions))


@pytest.mark.parametrize("path", CASES)
def test_weights_of_training_answers(path: Path) -> None:
    rows = Case(path).json["vqa_train_answer_weights"]["rows"]
    assert rows
    for row in rows:
        weights = Question(0, "", tuple(row["answers"]), 1 / len(row["answers"])).weights
        assert list(weights) == row["unique_answers"]
        assert list(weights.values()) == row["weights"]


def _predictions(case: Case) -> dict[str, str]:
    return {str(result["question_id"]): result["answer"] for result in case.json["results"]}


def _scores(case: Case) -> dict[str, float]:
    """Accuracy, 0 to 1, by question id, in the order of the annotations."""
    given = _predictions(case)
    return {
        str(annotation["question_id"]): vqa_accuracy(
            given[str(annotation["question_id"])], [answer["answer"] for answer in annotation["answers"]]
        )
        for annotation in case.json["annotations"]["annotations"]
    }
