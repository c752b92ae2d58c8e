"""`benchmarks.training_step`: training steps of two checkouts side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training_step import compare, main
from tests.shared import REPOSITORY


def test_a_checkout_equals_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    size = ["--configs", "fixture_partial1", "--rounds", "1", "--steps", "1", "--clips", "2"]
    monkeypatch.setattr(sys, "argv", ["training_step", "--before", str(REPOSITORY), *size])
    main()
    _, row = capsys.readouterr().out.splitlines()
    config, *times, before, after, ratio, same = row.split()
    assert (config, ratio, same) == ("fixture_partial1", "1.000000", "yes")
    assert before == after != "0.000"
    assert all(float(time) > 0 for time in times)


class Said:
    """A checkout whose answers are known."""

    def __init__(self, seconds: list[float], saved: int, losses: list[str]) -> None:
        self.seconds, self.saved_and_losses = iter(seconds), [saved, losses]

    def tell(self, what: object) -> None:
        pass

    def answer(self, kind: str) -> Any:
        return next(self.seconds) if kind == "seconds" else self.saved_and_losses


def test_differences_are_shown_without_the_first_turn() -> None:
    before, after = Said([9.0, 1.0, 2.0, 4.0], 1_000_000, ["0x1p0"]), Said([9.0, 2.0, 3.0, 6.0], 1_500_000, ["0x1p1"])
    row: list[str] = compare(before, after, "some", rounds=3, steps=2, clips=1)  # type: ignore[arg-type]  # duck-typed
    assert row == ["some", "1000.0", "1500.0", "1.500", "1.000", "1.500", "1.500000", "NO"]


def test_a_folder_that_is_no_checkout(
    own_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["training_step", "--before", str(own_folder)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr() == (
        "",
        f"training_step: error: {own_folder} holds no petl_bench: give the folder of a checkout\n",
    )
