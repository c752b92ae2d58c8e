"""The benchmark of clips in reverse: its intervals, and that the result that is kept holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.reversed_clips import RESULT, holds, summary


def ranks(correct: list[float]) -> dict[str, np.ndarray]:
    """Of 4 questions about each video: two by captions, two by clips."""
    count = len(correct) // 4
    clips = [name for video in range(count) for name in (f"{video}", f"{video}_reversed")]
    return {
        "video_id": np.array(clips),
        "text_video": np.array([2 * video + back for video in range(count) for back in (0, 0, 0, 1)]),
        "question_type": np.array(["v2t", "t2v", "t2v", "v2t"] * count),
        "correct": np.array(correct),
    }


def test_questions_about_a_video_and_its_reverse_are_drawn_together() -> None:
    even = summary(ranks([1.0, 0.5, 0.5, 0.0] * 30))
    assert (even["videos"], even["questions"]) == (30, 120)
    assert all(even[way] == {"accuracy": 50.0, "interval": [50.0, 50.0]} for way in ("all", "v2t", "t2v"))
    mixed = summary(ranks([1.0, 1.0, 1.0, 1.0] * 20 + [0.0, 0.0, 0.0, 0.0] * 20))
    low, high = mixed["all"]["interval"]
    spread = 196 * np.sqrt(0.25 / 40)  # of 40 videos, not of 160 questions
    assert mixed["all"]["accuracy"] == 50.0
    assert low == pytest.approx(50 - spread, abs=3)
    assert high == pytest.approx(50 + spread, abs=3)


def test_the_kept_result_is_what_is_claimed() -> None:
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    assert {(row["method"], row["seed"]) for row in rows} >= {("zeroshot", 0), ("st_adapter", 0)}
    assert holds(rows)
    uneven = [{**rows[0], "t2v": {"accuracy": 50.1, "interval": [50, 51]}}, *rows[1:]]
    chance = [rows[0], {**rows[1], "all": {"accuracy": 55.0, "interval": [49.9, 60]}}]
    assert not holds(uneven)
    assert not holds(chance)
    assert not holds(rows[:1])
