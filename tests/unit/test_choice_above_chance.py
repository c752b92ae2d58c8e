"""Who sees no clip, as `benchmarks/choice_above_chance.py` compares others with."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.choice_above_chance import blind_accuracy

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"


def test_blind_is_who_knows_which_options_are_never_right(tmp_path: Path) -> None:
    rows = [f"1,9,9,9,what,{right},0,DO,red,blue,star,cross,nowhere\n" for right in (0, 1)]
    (tmp_path / "train.csv").write_text(HEADER + rows[0] + rows[1].replace("1,9", "2,9", 1), encoding="utf-8")
    (tmp_path / "val.csv").write_text(HEADER + rows[0].replace("1,9", "4,9", 1), encoding="utf-8")
    (tmp_path / "test.csv").write_text(HEADER + rows[0].replace("1,9", "3,9", 1), encoding="utf-8")
    assert blind_accuracy(tmp_path) == pytest.approx(50)
