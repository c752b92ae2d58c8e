"""The matrix of methods, backbones and tasks says what really runs."""

from __future__ import annotations

import pytest

from petl_bench.commands.matrix import BACKBONES, TASKS, Cell, matrix, render, shared_reason
from petl_bench.registry import list_entries
from tests.contract.battery import method_of
from tests.contract.test_methods import CONFIGS, HOLES

#: class name by packaged configuration
METHODS = {config.stem: method_of(config).rsplit(".", 1)[1] for config in CONFIGS}

#: what has to run on BLIP for retrieval and question answering, as it does on CLIP
EVERYWHERE = ("MVAdapter", "AdaptFormer", "STAdapter", "Convpass", "LoRA", "BitFit", "Full")
#: what reads video with text, and the tasks of each
FUSED = {("BLIP", task) for task in ("retrieval", "matching", "qa_classifier")} | {("BLIPVQA", "qa_generation")}


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return matrix()


def test_every_combination_stands_once(cells: list[Cell]) -> None:
    methods = {entry.name for entry in list_entries("methods")}
    places = [(cell.method, cell.backbone, cell.task) for cell in cells]
    assert len(set(places)) == len(places) == len(methods) * len(BACKBONES) * len(TASKS)


def test_what_has_to_run_runs(cells: list[Cell]) -> None:
    runs = {(cell.method, cell.backbone, cell.task) for cell in cells if cell.reason is None}
    for method in EVERYWHERE:
        assert {(b, t) for m, b, t in runs if m == method} >= FUSED
        assert {(method, "CLIP", "retrieval"), (method, "CLIP", "qa_classifier")} <= runs
    assert {("Linear", "BLIP", task) for task in ("retrieval", "matching", "qa_classifier")} <= runs
    assert {("UniAdapter", *place) for place in FUSED} <= runs


def test_holes_are_those_of_the_battery(cells: list[Cell]) -> None:
    """`test_methods.py` trains what is no hole, with the configurations of `METHODS`."""
    holes = {(c.method, c.backbone.lower(), c.task): c.reason for c in cells if c.reason and c.backbone != "WholeCLIP"}
    battery = {(METHODS[config], backbone, task): words for (config, backbone, task), words in HOLES.items()}
    assert holes.keys() == battery.keys()
    assert all(words in (holes[place] or "") for place, words in battery.items())


def test_a_reason_is_one_line_below_the_table(cells: list[Cell]) -> None:
    text = render(cells)
    for reason in {shared_reason(cell) or "" for cell in cells if cell.reason}:
        assert "\n" not in reason
        assert text.count(f"  {reason}") == 1
