"""That tasks which choose learn, as `benchmarks/choice_above_chance.py` found it; and who sees no clip, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.choice_above_chance import RESULT, TRAINED, blind_accuracy

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"


def test_every_interval_lies_above_chance_and_above_who_sees_no_clip() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["questions"] >= 500
    expected = {(one.config, one.task, seed) for one in TRAINED for seed in (0, 1, 2)}
    assert {(run["config"], run["task"], run["seed"]) for run in found["runs"]} == expected
    for run in found["runs"]:
        assert run["interval"][0] > max(run["chance"], found["blind"])
        assert run["interval"][0] <= run["accuracy"] <= run["interval"][1]


def test_blind_is_who_knows_which_options_are_never_right(tmp_path: Path) -> None:
    rows = [f"1,9,9,9,what,{right},0,DO,red,blue,star,cross,nowhere\n" for right in (0, 1)]
    (tmp_path / "train.csv").write_text(HEADER + rows[0] + rows[1].replace("1,9", "2,9", 1), encoding="utf-8")
    (tmp_path / "val.csv").write_text(HEADER + rows[0].replace("1,9", "4,9", 1), encoding="utf-8")
    (tmp_path / "test.csv").write_text(HEADER + rows[0].replace("1,9", "3,9", 1), encoding="utf-8")
    assert blind_accuracy(tmp_path) == pytest.approx(50)
