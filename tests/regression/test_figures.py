"""Every method trains on a small pretrained backbone to the figures that were recorded of it."""

import re
from pathlib import Path

import pytest
import torch

from tests.regression import figures, record
from tests.regression.faults import FAULTS
from tests.regression.figures import EXACT, Recorded, differences, recorded
from tests.regression.training import recipes, train

RECORDED = recorded()
#: recipes that faults are injected into: a temporal adapter and a plain one on CLIP, one on BLIP
INJECTED = ("fixture_mvadapter", "fixtureqa_adaptformer", "fixtureqa_blip_uniadapter")


def _recorded(recipe: str) -> dict[str, Recorded]:
    assert recipe in RECORDED, f"no figures of it: commit, then make regression-record RECIPES={recipe}"
    return RECORDED[recipe]


@pytest.mark.parametrize("recipe", recipes())
def test_figures(recipe: str, clips: Path) -> None:
    assert differences(train(recipe, clips, Path("run")), _recorded(recipe)) == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("recipe", INJECTED)
def test_a_fault_is_found(recipe: str, fault: str, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, `test_figures` finds nothing in the same recipe."""
    FAULTS[fault](monkeypatch)
    told = differences(train(recipe, clips, Path("run")), _recorded(recipe))
    print(f"{fault}, {recipe}: {'; '.join(told)}")
    assert told, f"{fault} changes nothing that is compared"


@pytest.mark.parametrize("recipe", INJECTED)
def test_two_threads_give_the_same_figures(recipe: str, clips: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert differences(train(recipe, clips, Path("run")), _recorded(recipe)) == []
    finally:
        torch.set_num_threads(threads)


def test_every_recipe_is_recorded_and_nothing_else() -> None:
    assert RECORDED.keys() == set(recipes())


@pytest.mark.parametrize("recipe", recipes())
def test_enough_is_compared(recipe: str) -> None:
    """What is trained, the loss on the way, and the test have figures that rounding does not blur."""
    compared = {name for name, figure in RECORDED.get(recipe, {}).items() if figure.tolerance is not None}
    assert {*EXACT, "test loss"} <= compared
    assert len(compared - {*EXACT}) >= 3


def test_tolerances_follow_from_what_was_measured() -> None:
    for of in RECORDED.values():
        for name, figure in of.items():
            expected = figures.tolerance(name, figure.value, figure.arithmetic, figure.seeds)
            assert figure.tolerance == (None if expected is None else pytest.approx(expected, rel=0.05)), name


def test_figures_name_commit_and_machine() -> None:
    for recipe in figures.read().values():
        found = recipe["recorded"]
        assert re.fullmatch("[0-9a-f]{40}", found["commit"])
        assert found["cpu"]
        assert found["versions"]["torch"]


@pytest.mark.parametrize("code", [{"commit": "0" * 40, "dirty": True}, {"commit": None, "dirty": None}])
def test_figures_of_no_commit_are_not_recorded(code: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_write", pytest.fail)
    monkeypatch.setattr(record, "environment", lambda: code)
    with pytest.raises(SystemExit, match="commit your changes first"):
        record.record()


def test_only_recipes_are_recorded() -> None:
    with pytest.raises(SystemExit, match="msrvtt_full: no recipe"):
        record.record(["msrvtt_full"])
