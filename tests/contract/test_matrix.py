"""The matrix of methods, backbones and tasks says what really runs."""

from __future__ import annotations

import pytest

from petl_bench.cli.tiny_parts import classes_of
from petl_bench.commands.matrix import Cell, letters_of, matrix, render, shared_reason
from petl_bench.registry import list_entries
from tests.contract.battery import BACKBONES, CASES, HOLES

#: what has to run on BLIP for retrieval and question answering, as it does on CLIP
EVERYWHERE = ("MVAdapter", "AdaptFormer", "STAdapter", "Convpass", "LoRA", "BitFit", "Full")
#: what reads video with text, and the tasks of each
FUSED = {("BLIP", task) for task in ("retrieval", "matching", "qa_classifier")} | {("BLIPVQA", "qa_generation")}


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return matrix()


def test_every_combination_stands_once(cells: list[Cell]) -> None:
    methods, backbones, tasks = (len(list_entries(kind)) for kind in ("methods", "backbones", "tasks"))
    places = [(cell.method, cell.backbone, cell.task) for cell in cells]
    assert len(set(places)) == len(places) == methods * backbones * tasks


def test_what_has_to_run_runs(cells: list[Cell]) -> None:
    runs = {(cell.method, cell.backbone, cell.task) for cell in cells if cell.reason is None}
    for method in EVERYWHERE:
        assert {(b, t) for m, b, t in runs if m == method} >= FUSED
        assert {(method, "CLIP", "retrieval"), (method, "CLIP", "qa_classifier")} <= runs
    assert {("Linear", "BLIP", task) for task in ("retrieval", "matching", "qa_classifier")} <= runs
    assert {("UniAdapter", *place) for place in FUSED} <= runs


def test_holes_are_those_that_needs_tell(cells: list[Cell]) -> None:
    """`test_methods.py` trains what is no hole, with the configurations of its cases."""
    holes = {(c.method, c.backbone.lower(), c.task) for c in cells if c.reason and c.backbone.lower() in BACKBONES}
    methods = {case.name: case.method.__name__ for case in CASES}
    assert holes == {(methods[case], b, task) for case, b, task in HOLES if b in BACKBONES}


def test_a_letter_for_each_task() -> None:
    letters = letters_of(["matching", "qa_classifier", "qa_generation", "retrieval", "grounding", "group_retrieval"])
    assert list(letters.values()) == ["M", "C", "G", "R", "O", "E"]


def test_a_reason_is_one_line_below_the_table(cells: list[Cell]) -> None:
    text = render(cells, classes_of("tasks").values())
    for reason in {shared_reason(cell) or "" for cell in cells if cell.reason}:
        assert "\n" not in reason
        assert text.count(f"  {reason}") == 1
