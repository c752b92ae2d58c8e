"""LSMDC: tabs without header and quotes, dotted names, several sentences for a clip."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.lsmdc import LSMDC
from petl_bench.errors import DataError

TIMES = "00.05.16.065\t00.05.21.941\t00.05.16.065\t00.05.21.941"
UNBREAKABLE = "1012_Unbreakable_00.05.16.065-00.05.21.941"
TRAIN = [
    (UNBREAKABLE, 'SOMEONE says "no'),
    ("3001_21_JUMP_STREET_00.03.13.271-00.03.16.110", "He's here,\u2028isn't he?"),
    (UNBREAKABLE, "Second row of the clip."),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "LSMDC16_annos_training.csv": TRAIN,
        "LSMDC16_annos_val.csv": TRAIN[1:2],
        "LSMDC16_challenge_1000_publictect.csv": TRAIN[:1],
    }
    for name, rows in files.items():
        text = "".join(f"{clip}\t{TIMES}\t{sentence}\n" for clip, sentence in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_rows_of_one_clip_are_its_captions(root: Path) -> None:
    train = LSMDC(root, partial=True).samples("train")
    assert [(sample.video, sample.captions) for sample in train] == [
        (UNBREAKABLE, (TRAIN[0][1], TRAIN[2][1])),
        (TRAIN[1][0], (TRAIN[1][1],)),
    ]


def test_clips_are_found_in_the_folders_of_their_films(root: Path) -> None:
    film = root / "videos" / "1012_Unbreakable"
    film.mkdir(parents=True)
    (film / f"{UNBREAKABLE}.avi").touch()
    clips = LSMDC(root).clip_files()
    assert clips
    assert clips.find([UNBREAKABLE]) == {UNBREAKABLE: film / f"{UNBREAKABLE}.avi"}


def test_counts_are_those_of_the_protocol(root: Path) -> None:
    with pytest.raises(DataError, match="expected 1000"):
        LSMDC(root).samples("test")


@pytest.mark.parametrize(
    ("line", "told"),
    [("clip\tcut", "line 4: 2 fields"), (f"\t{TIMES}\ta man", "line 4: no clip"), (f"clip\t{TIMES}\t ", "no sentence")],
)
def test_a_damaged_line_is_named(root: Path, line: str, told: str) -> None:
    path = root / "LSMDC16_annos_training.csv"
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=told):
        LSMDC(root, partial=True).samples("train")
