"""`benchmarks.scale`: a small dataset goes all the way, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scale import Size, commands, main


def test_a_small_rehearsal(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--clips", "40", "--captions", "4", "--size", "32", "--workers", "0"]
    assert main(["work", *small, "--output", "scale.json"]) == 0
    found = json.loads(Path("scale.json").read_text(encoding="utf-8"))
    assert [*found["parts"]] == [*commands(Size(40, 4, 32, 0))]
    assert all(part["cpu_s"] > 0 < part["peak_mb"] for part in found["parts"].values())
    # 12 frames of 224 pixels, as uint8, with a little around them
    assert 40 * 12 * 3 * 224**2 / 1e6 < found["disk_mb"]["cache"] < 41 * 12 * 3 * 224**2 / 1e6
    assert len([*Path("work", "runs").rglob("result.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == [*found["parts"]]


def test_a_part_that_fails_is_named(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scale.commands", lambda size: {"describe": ["-c", "raise SystemExit(3)"]})
    with pytest.raises(SystemExit, match=r"describe ended with 3, see .*log\.txt"):
        main(["work"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["work", "--clips", "39"], "are the least"),
        (["work", "--clips", "40", "--captions", "3"], "nine tenths of the captions make no batch of 128"),
        (["full"], "full is not an empty folder"),
    ],
    ids=["clips", "batch", "folder"],
)
def test_bad_options(own_folder: Path, wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full", "file").touch()
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
