"""Accuracy of choices: by the index, with ties that count 1/k, in groups on two levels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from petl_bench.errors import DataError, DistributedError, NonFiniteError
from petl_bench.metrics.choice import COSINES, ChoiceMetric, choose, tie_rule, version
from petl_bench.metrics.ranks import figures_of


@pytest.mark.parametrize(
    ("scores", "correct", "expected"),
    [
        ([0.1, 0.3, 0.2], 1, (1, 1.0)),
        ([0.1, 0.3, 0.2], 0, (1, 0.0)),
        ([0.3, 0.3], 1, (0, 0.5)),
        ([0.3, 0.3], 0, (0, 0.5)),
        ([0.3 - 0.5 * COSINES, 0.3, 0.1], 0, (0, 0.5)),
        ([0.3 - 10 * COSINES, 0.3, 0.1], 0, (1, 0.0)),
        ([0.3, 0.3, 0.3, 0.1], 2, (0, 1 / 3)),
        ([0.3, 0.3, 0.3, 0.1], 3, (0, 0.0)),
    ],
)
def test_options_that_share_the_best_score_share_the_point(
    scores: list[float], correct: int, expected: tuple[int, float]
) -> None:
    assert choose(torch.tensor(scores, dtype=torch.float64), correct) == pytest.approx(expected)


def test_the_tolerance_is_above_what_the_order_of_frames_moves_a_score_by() -> None:
    """The measurement behind it: a plain mean, as a method's own pooling may take, of frames in other orders."""

    def pooled(frames: Tensor) -> Tensor:
        return normalize(normalize(frames, dim=-1).mean(1), dim=-1)

    generator = torch.Generator().manual_seed(0)
    spread = 0.0
    for width in (8, 512, 1024):
        for count in (2, 12, 64):
            frames = torch.randn(1, 1, width, generator=generator) + torch.randn(16, count, width, generator=generator)
            text = normalize(frames.mean((0, 1)), dim=0)
            scores = (pooled(frames) * text).sum(-1)
            for order in ([*reversed(range(count))], torch.randperm(count, generator=generator).tolist()):
                other = (pooled(frames[:, order]) * text).sum(-1)
                spread = max(spread, float((other - scores).abs().max()))
    assert 0 < spread < COSINES / 2
    assert "1e-06" in version(COSINES)
    assert "1e-06" in tie_rule(COSINES)


def evaluated(
    scores: Sequence[Tensor | None], correct: Sequence[int], types: Sequence[str], groups: Sequence[str]
) -> dict[str, np.ndarray]:
    metric = ChoiceMetric(len(scores))
    choices = [("no", "yes", "maybe")[: 3 if own is None else len(own)] for own in scores]
    metric.update(torch.arange(len(scores)), scores, correct, choices, types, groups)
    found = metric.compute()
    return {
        "correct": found.scores,
        "question_type": found.types,
        "question_group": found.groups,
        "prediction": found.predictions,
        "n_choices": found.choices,
    }


def test_groups_on_two_levels_and_the_mean_of_types() -> None:
    scores = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 1.0]), None]
    ranks = evaluated(scores, [1, 0, 0, 2], ["CW", "CW", "CH", "TN"], ["C", "C", "C", "T"])
    assert ranks["prediction"].tolist() == ["yes", "yes", "no", ""]
    assert ranks["correct"].tolist() == [1, 0, 0.5, 0]  # of a clip that cannot be read every choice is wrong
    figures = figures_of(ranks)
    assert figures["accuracy"] == 37.5
    assert figures["per_type"] == {"CW": 50, "CH": 50, "TN": 0}
    assert figures["per_group"] == {"C": 50, "T": 0}
    assert figures["n_per_group"] == {"C": 3, "T": 1}
    assert figures["mean_of_types"] == pytest.approx(100 / 3)
    assert figures["chance"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 2 + 1 / 3) / 4)


def test_what_is_refused() -> None:
    one = (torch.arange(1), [torch.tensor([0.0, 1.0])], [0], [("a", "b")], ["what"], [""])
    with pytest.raises(DataError, match="no right option"):
        ChoiceMetric().update(*one[:2], [None], *one[3:])
    with pytest.raises(NonFiniteError):
        ChoiceMetric().update(one[0], [torch.tensor([0.0, torch.nan])], *one[2:])
    metric = ChoiceMetric(2)
    metric.update(*one)
    with pytest.raises(DistributedError, match="question index 1 of 2 was not evaluated"):
        metric.compute()
    with pytest.raises(DataError, match="n_choices"):
        figures_of({"correct": np.ones(1), "question_type": np.array(["a"]), "n_choices": np.zeros(1, int)})


def test_next_qas_check_vector(shared: Path) -> None:
    """HGA's predictions for the validation split, whose figures the README of NExT-QA prints."""
    from datamodules.nextqa import NExTQA

    root = shared / "data/annotations_2/nextqa_mc"
    given = json.loads((root / "HGA-bert-ft-h256-val-example.json").read_text())
    questions = [q for sample in NExTQA(root, test_on="val").samples("test") for q in sample.questions]
    scores = [torch.eye(len(q.choices))[given[q.id]["prediction"]] for q in questions]
    assert [given[q.id]["answer"] for q in questions] == [q.correct for q in questions]
    right = [q.correct for q in questions]
    metric = ChoiceMetric(len(questions))
    types, groups = [q.type for q in questions], [q.group for q in questions]
    metric.update(torch.arange(len(questions)), scores, right, [q.choices for q in questions], types, groups)
    found = metric.compute()
    ranks = {"correct": found.scores, "question_type": found.types, "question_group": found.groups}
    figures = figures_of(ranks | {"n_choices": found.choices})
    assert round(figures["accuracy"], 2) == 49.74
    assert {name: round(value, 2) for name, value in figures["per_group"].items()} == {
        "causal": 46.26,
        "temporal": 50.74,
        "descriptive": 59.33,
    }
