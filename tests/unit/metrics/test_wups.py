"""WUPS: the rule by hand, and published figures where WordNet is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from petl_bench.errors import DataError, UsageError
from petl_bench.metrics import wordnet as wordnet_module
from petl_bench.metrics.ranks import figures_of
from petl_bench.metrics.wordnet import WordNet, holds_wordnet, usual_folders
from petl_bench.metrics.wups import WUPS, WUPSMetric, wups
from petl_bench.tasks.qa_generation import AnswerGeneration

ALIKE = {("cat", "dog"): 0.8, ("car", "cat"): 0.4, ("dog", "run"): 0.0}


def similarity(one: str, other: str) -> float:
    return ALIKE.get((min(one, other), max(one, other)), 0.0)


@pytest.mark.parametrize(
    ("one", "other", "alpha", "score"),
    [
        ("cat", "cat", 0.0, 1.0),
        ("cat", "dog", 0.0, 0.8),
        ("cat", "dog", 0.9, 0.08),
        ("cat run", "cat", 0.0, 1.0),  # nothing is similar to run: it is skipped
        ("cat cat", "dog", 0.0, 0.64),  # a product in one direction, the smaller one of both
        ("cat dog", "car dog", 0.0, 0.4),
        ("run", "walk", 0.0, 0.0),
        ("", "cat", 0.0, 0.0),
        ("", "", 0.0, 0.0),
    ],
)
def test_words_are_compared_in_both_directions(one: str, other: str, alpha: float, score: float) -> None:
    found = [wups(a.split(), b.split(), similarity, alpha) for a, b in ((one, other), (other, one))]
    assert found == pytest.approx([score, score])


class Dictionary(WordNet):
    """Without files: a word is its own lemma, but for plurals."""

    def __init__(self) -> None:
        self.sha256 = "0" * 64

    def lemma(self, word: str) -> str:
        return word.removesuffix("s")

    def similarity(self, one: str, other: str) -> float:
        return similarity(one, other)


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> WUPS:
    monkeypatch.setattr("petl_bench.metrics.wups.tokens_of", str.split)
    return WUPS(Dictionary(), ["the"])


def test_the_better_reference_counts_and_yes_and_numbers_need_the_same_words(score: WUPS) -> None:
    assert score("The cats", ["car", "dogs"], "CW") == pytest.approx(0.8)
    assert score("the cats", ["dog", "cat"], "DO") == 1
    assert score("the cats", ["Cat"], "DB") == 1
    assert score("cat", ["dog"], "DC") == score("cat", ["dog"], "DB") == 0
    assert score.version.startswith("wups-nextoe/1, lemmas of the part of speech with most senses, WordNet 3.0 0000")
    assert score.version != WUPS(Dictionary(), ["a"]).version


def test_a_question_counts_between_0_and_1_everywhere(score: WUPS) -> None:
    metric = WUPSMetric(score, None, expected=3)
    answers = [("cat",), ("dog", "the cat"), ("cat",)]
    metric.update(torch.tensor([2, 0, 1]), ["dog", "cat", None], answers, ["CW", "CW", "DB"], ["c", "c", "d"])
    result = metric.compute()
    assert result.scores.tolist() == pytest.approx([1.0, 0.0, 0.8])
    assert result.exact_match == 0  # "the cat" is another answer, to the letter
    assert result.accuracy == pytest.approx(60)
    ranks = {"correct": result.scores, "question_type": result.types, "question_group": result.groups}
    figures = figures_of(ranks)
    assert figures["per_group"] == pytest.approx({"c": 90, "d": 0})
    assert figures["accuracy"] == pytest.approx(result.accuracy)


def test_differences_of_such_scores_are_tested_by_sign_flips() -> None:
    from petl_bench.report.statistics import paired

    ours, theirs = (np.array(values) * 100 for values in ([0.8, 0.1, 1.0], [0.4, 0.1, 0.0]))
    assert paired([ours], [theirs], np.arange(3), "score").test == "sign-flip"


def test_exact_match_stands_in_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petl_bench.tasks.wups.usual_folders", lambda: [tmp_path])
    monkeypatch.setattr("petl_bench.tasks.wups.has_nltk", lambda: False)
    with pytest.warns(UserWarning, match=r"exact match only: there is no NLTK .*no WordNet 3.0 .*no .*stopwords.txt"):
        task = AnswerGeneration(score="wups", root=tmp_path)
    assert task.metric_version == "qa-exact-match/1"
    with pytest.raises(UsageError, match=r"task.wordnet is for score wups"):
        AnswerGeneration(wordnet=tmp_path)


def write_wordnet(folder: Path, version: str) -> None:
    for name in (*wordnet_module._FILES, *wordnet_module._EXCEPTIONS):
        (folder / name).write_text(f"WordNet {version} Copyright")


def test_a_folder_that_is_given_must_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stopwords.txt").write_text("the")
    monkeypatch.setattr(wordnet_module, "has_nltk", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'petl-bench\[wups\]'"):
        AnswerGeneration(score="wups", wordnet=tmp_path, root=tmp_path)
    monkeypatch.setattr(wordnet_module, "has_nltk", lambda: True)
    with pytest.raises(DataError, match="no WordNet there"):
        AnswerGeneration(score="wups", wordnet=tmp_path, root=tmp_path)
    write_wordnet(tmp_path, "3.1")
    with pytest.raises(DataError, match=r"not of version 3.0"):
        AnswerGeneration(score="wups", wordnet=tmp_path, root=tmp_path)
    write_wordnet(tmp_path, "3.0")
    with pytest.warns(UserWarning, match="other files than those"):
        task = AnswerGeneration(score="wups", wordnet=tmp_path, root=tmp_path)
    assert task.metric_version.startswith("wups-nextoe/1")
    (tmp_path / "stopwords.txt").write_bytes(b"\xff\xfet")
    with (
        pytest.warns(UserWarning, match="other files"),
        pytest.raises(DataError, match=r"stop words .*stopwords.txt: this is UTF-16"),
    ):
        AnswerGeneration(score="wups", wordnet=tmp_path, root=tmp_path)


# --- with WordNet ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared: Path) -> WUPS:
    found = next(filter(holds_wordnet, usual_folders()))
    words = (shared / "data/annotations_2/nextqa_oe/stopwords.txt").read_text().split()
    return WUPS(WordNet(found), words)


@pytest.mark.needs_wordnet
@pytest.mark.parametrize(
    ("one", "other", "at_0", "at_9"),
    [
        ("dog", "cat", 0.8571, 0.0857),
        ("red dog", "dog", 0.1176, 0.0118),
        ("two", "three", 0.875, 0.0875),
        ("pick it up", "pick up", 1, 1),
        ("running", "run", 1, 1),
        ("", "", 0, 0),
    ],
)
def test_vectors(one: str, other: str, at_0: float, at_9: float, real: WUPS) -> None:
    words = real.words(one), real.words(other)
    assert wups(*words, real.wordnet.similarity) == pytest.approx(at_0, abs=5e-5)
    assert wups(*words, real.wordnet.similarity, alpha=0.9) == pytest.approx(at_9, abs=5e-5)


@pytest.mark.needs_wordnet
@pytest.mark.parametrize(("second", "figure"), [(True, 24.1), (False, 21.3)])
def test_the_released_predictions(second: bool, figure: float, real: WUPS, shared: Path) -> None:
    root = shared / "data/annotations_2/nextqa_oe"
    given = json.loads((root / "HGA-same-att-qns23ans7-test.json").read_text())
    others = json.loads((root / "add_reference_answer_test.json").read_text()) if second else {}
    scores = []
    with (root / "test.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            video, number = row["video"], row["qid"]
            answers = [row["answer"], *([others[video][number]] if number in others.get(video, {}) else [])]
            scores.append(real(given[video][number], answers, row["type"]))
    assert len(scores) == 9178
    assert 100 * np.mean(scores) == pytest.approx(figure, abs=0.05)
