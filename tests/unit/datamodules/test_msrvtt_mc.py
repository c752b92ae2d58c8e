"""MSRVTT-MC: every distributed shape, what is wrong with a record, and no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.msrvtt_mc import MSRVTTMC
from petl_bench.data.samples import Sample
from petl_bench.errors import DataError

CAPTIONS = ["a boy", 'a "movie" trailer', "an asian man", "two men, a surfer", "none"]
SINGULARITY = {"video": "video9770.mp4", "caption": CAPTIONS, "answer": 3}


def read(folder: Path, text: str, name: str = "msrvtt_mc_test.json") -> list[Sample]:
    (folder / name).write_text(text, encoding="utf-8")
    return MSRVTTMC(folder, partial=True).samples("test")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("msrvtt_mc_test.json", json.dumps([SINGULARITY])),
        ("msrvtt_mc_test.jsonl", json.dumps({"clip_name": "video9770", "options": CAPTIONS, "answer": 3})),
        (
            "msrvtt_retrieval_mc_test.jsonl",
            json.dumps({"id": 0, "vid_id": "video9770", "answer": 3, "options": CAPTIONS}),
        ),
        (
            "MSR_MC_test.csv",
            "\tvid_key\ta1\ta2\ta3\ta4\ta5\tanswer\n0\tmsr9770\t" + "\t".join(CAPTIONS) + "\t3\n",
        ),
    ],
)
def test_every_distributed_shape_gives_the_same(name: str, text: str, tmp_path: Path) -> None:
    (sample,) = read(tmp_path, text, name)
    (question,) = sample.questions
    assert sample.video == "video9770"
    assert question.options == question.choices == tuple(CAPTIONS)  # captions alone, without a question before them
    assert (question.correct, question.answers) == (3, ("two men, a surfer",))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"answer": 5}, "'answer' is 5, not the index of an option, 0 to 4"),
        ({"answer": "two men, a surfer"}, "not the index of an option"),
        ({"answer": None}, "'answer' is missing or blank"),
        ({"caption": ["a boy", "a boy", "c", "d", "e"]}, "option 'a boy' is given twice"),
        ({"caption": ["a boy"]}, "1 options"),
        ({"caption": ["a", "b", "c", "d"]}, "4 options, each question has 5"),
        ({"caption": ["a", "b", "c", "d", " "]}, "5 options, 4 of them with a text"),
        ({"video": None}, "none of video, vid_id, clip_name and vid_key"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_with_its_place(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"msrvtt_mc_test.json, record 0: .*{told}"):
        read(tmp_path, json.dumps([SINGULARITY | changed]))


def test_a_clip_that_is_asked_about_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 1: question id 'video9770' is given twice"):
        read(tmp_path, json.dumps([SINGULARITY, SINGULARITY]))


def test_counts_are_those_of_the_full_test_split(tmp_path: Path) -> None:
    (tmp_path / "msrvtt_mc_test.json").write_text(json.dumps([SINGULARITY]), encoding="utf-8")
    data = MSRVTTMC(tmp_path)
    with pytest.raises(DataError, match="test split has 1 videos, expected 2990"):
        data.samples("test")
    assert data.samples("train") == data.samples("val") == []


def test_the_real_record(shared: Path) -> None:
    data = MSRVTTMC(shared / "data/annotations_2/msrvtt_mc", test_file="msrvtt_mc_test.head1.json", partial=True)
    (sample,) = data.samples("test")
    assert (sample.video, sample.questions[0].answers) == ("video9770", ("the boy is trying to fix the problem",))
