"""`benchmarks.perf`: its arithmetic, and that every kind of measurement runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.perf import evaluation, rounds, steps
from benchmarks.perf.__main__ import MEASUREMENTS, main
from benchmarks.perf.rounds import Measured, Row
from tests.shared import REPOSITORY

#: one of each kind that needs no other checkout and no foreign package
KINDS = (
    *("LoRA-2x4", "reranking", "clips-warm", "clips-cold", "decoding", "ranks-5000", "growth-ranks", "growth-report"),
    *("first-step", "step-overhead"),
)


def side(costs: list[float], order: list[str], name: str) -> Callable[[], float]:
    def turn() -> float:
        order.append(name)
        return costs.pop(0)

    return turn


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    sides = {"a": side([9.0, 1.0, 2.0], order, "a"), "b": side([9.0, 4.0, 5.0], order, "b")}
    assert rounds.interleave(sides, 2) == {"a": [1.0, 2.0], "b": [4.0, 5.0]}
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_ratios_are_those_of_rounds() -> None:
    found = rounds.ratio([1.0, 4.0, 3.0, 8.0, 5.0], [1.0, 2.0, 1.0, 2.0, 1.0], factor=0.5)
    assert found == Measured(1.5, (2.0 - 1.0) / 2)
    assert math.isnan(rounds.ratio([1.0], [2.0]).noise)


def test_exponents_of_known_powers() -> None:
    sizes = (1, 2, 4)
    found = rounds.exponent(sizes, [[3 * n**2, 5 * n] for n in sizes])
    assert found == pytest.approx((1.5, 0.25))


def test_rows_say_whether_goals_are_met(capsys: pytest.CaptureFixture[str]) -> None:
    fast = Row("speed", 4, "more", Measured(4.0, 0.1), "how")
    slow, none = fast._replace(measured=Measured(3.99, 0.1)), rounds.left_out("other", 0.5, "less", "no peer")
    assert (fast.met, slow.met, none.met) == (True, False, None)
    assert fast._replace(better="less", goal=3.9).met is False
    rounds.show([fast, slow, none])
    head, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["what", "goal", "measured", "noise", "met", "how"]
    assert lines == [
        ["speed", ">=", "4", "4", "0.1", "yes", "how"],
        ["speed", ">=", "4", "3.99", "0.1", "NO", "how"],
        ["other", "<=", "0.5", "-", "-", "-", "no", "peer"],
    ]


def test_a_later_run_keeps_what_it_did_not_measure(tmp_path: Path) -> None:
    path, row = tmp_path / "results" / "perf.json", Row("some", 1, "less", Measured(0.5, math.nan), "how")
    rounds.write(path, {"first": [row]}, {"commit": "a"})
    rounds.write(path, {"second": [row._replace(measured=None)]}, {"commit": "b"})
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {name: found["commit"] for name, found in kept.items()} == {"first": "a", "second": "b"}
    assert kept["first"]["rows"] == [
        {"what": "some", "goal": 1, "better": "less", "how": "how", "met": True, "measured": 0.5, "noise": None}
    ]
    assert kept["second"]["rows"][0]["met"] is None


def test_surroundings_name_commit_and_versions() -> None:
    said = rounds.surroundings()
    assert said["torch"] == torch.__version__
    assert said["commit"] is None or len(said["commit"].rstrip("+")) == 12
    json.dumps(said)


def test_sorting_and_counting_rank_alike() -> None:
    text, video = evaluation.features(60)
    ours, theirs = evaluation.ranked(text, video), evaluation.ranked_by_sorting(text, video)
    assert {way: found.tolist() for way, found in ours.items()} == {way: theirs[way].tolist() for way in ours}
    assert len(set(ours["t2v"].tolist())) > 3  # neither always right nor always wrong


def test_ties_have_one_place_each() -> None:
    same = torch.ones(3, 2)
    assert {way: found.tolist() for way, found in evaluation.ranked_by_sorting(same, same).items()} == {
        "t2v": [1, 1, 1],
        "v2t": [1, 1, 1],
    }


def test_evaluations_that_rank_otherwise_are_not_compared() -> None:
    ours = np.ones(200, dtype=np.int32)
    theirs = ours.copy()
    theirs[:2] += 1
    evaluation.require_alike({"t2v": ours}, {"t2v": theirs})
    theirs[2] += 1
    with pytest.raises(SystemExit, match=r"both evaluations rank differently: 1\.5% of t2v"):
        evaluation.require_alike({"t2v": ours}, {"t2v": theirs})


def test_memory_of_a_piece_of_work_is_told() -> None:
    # The first touch of a library's pages is counted, too.
    assert 2**26 <= evaluation.added_bytes(lambda: torch.ones(2**24)) < 2**27


def test_every_goal_of_adapters_is_measured() -> None:
    asked = {f"{name}-2x{frames}" for name, (_, goals, _) in steps.ADAPTERS.items() for frames in goals}
    assert asked < {*MEASUREMENTS}


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    others = ("UniAdapter-official", "MV-Adapter-official-frozen", "reranking", "first-step", "describe")
    assert main(["--only", "LoRA-peft", *others]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        "peft is not installed (extra bench)",
        *["needs --before, a checkout of 3e531d0"] * 6,
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--rounds", "0"], "rounds is a whole number from 1 on"),
        (["--quick", "--output", "a.json"], "figures of --quick mean nothing and are not kept: leave out --output"),
        (["--only", "reranking", "--before", "nowhere"], "holds no petl_bench: give the folder of a checkout"),
    ],
    ids=["rounds", "kept", "no checkout"],
)
def test_bad_options(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)


def test_every_kind_of_measurement_runs(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    """With this checkout in the place of 3e531d0."""
    assert main(["--quick", "--before", str(REPOSITORY), "--only", *KINDS]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = printed[next(place for place, line in enumerate(printed) if line.startswith("what ")) + 1 :]
    rows = {line.split("  ")[0]: line.split() for line in table}
    assert len(rows) == len(KINDS) + 2 + 3  # steps also save bytes, growth has two, decoding two of two readers
    for kind in ("short", "long"):
        row = rows.pop(f"decoding 12 frames of a {kind} clip, torchcodec / decord")
        assert {"yes", "NO", "installed"} & {*row}
    memory = rows.pop("exponent of an evaluation's memory")
    assert memory[-1] == "memory"  # too little of it
    assert all({"yes", "NO"} & {*row} for row in rows.values())
