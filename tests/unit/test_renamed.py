"""What earlier versions wrote is read as today's, whichever way it was moved; what is of today passes unchanged."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from petl_bench import renamed
from petl_bench.renamed import (
    CLASSES,
    REWRITTEN,
    Block,
    argument,
    as_written_today,
    choice,
    one_after_another,
    part,
    settings_of_today,
)

OLD, NEW = "petl_bench.backbones.whole_clip.WholeCLIP", "petl_bench.backbones.clip.WholeCLIP"


def model(class_path: str, **options: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"backbone": {"class_path": class_path, "init_args": options}}}, "seed": 0}


@pytest.mark.parametrize("path", [*CLASSES.values(), *REWRITTEN])
def test_the_table_leads_to_classes_that_are_there(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


def test_no_class_path_of_today_is_read_as_another() -> None:
    assert not CLASSES.keys() & {*CLASSES.values(), *REWRITTEN}


def test_a_class_that_moved() -> None:
    before = model(OLD, architecture="RN50")
    found, changes = as_written_today(before)
    assert found == model(NEW, architecture="RN50")
    assert before == model(OLD, architecture="RN50")  # not changed itself
    assert changes == [f"{OLD} is read as {NEW}"]
    assert as_written_today(found) == (found, [])


def test_what_a_checkpoint_depends_on() -> None:
    before = {
        "model.init_args.backbone.class_path": OLD,
        "model.init_args.backbone.init_args.sizes.0": 1,
        "processes": 1,
        "trainer.callbacks": None,
    }
    assert settings_of_today(before) == {**before, "model.init_args.backbone.class_path": NEW}
    for strange in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"model.class_path": ["x"]}, {}):
        assert settings_of_today(strange) == strange


# --- rules, with a table of the test ---------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, renamed.Rule]:
    own: dict[str, renamed.Rule] = {}
    monkeypatch.setattr(renamed, "REWRITTEN", own)
    return own


def today(**options: Any) -> Any:
    return as_written_today({"class_path": "a.Task", "init_args": options})[0]


def test_an_argument_with_another_name(table: dict[str, renamed.Rule]) -> None:
    table["a.Task"] = argument("old", "new")
    assert today(x=1, old=2) == {"class_path": "a.Task", "init_args": {"x": 1, "new": 2}}
    assert today(new=2) == {"class_path": "a.Task", "init_args": {"new": 2}}


def test_a_mode_that_is_a_class_of_its_own(table: dict[str, renamed.Rule]) -> None:
    table["a.Task"] = part("inference", {"rank": ("a.Rank", ("k",)), None: ("a.Generate", ("beams",))})
    rank = {"class_path": "a.Rank", "init_args": {"k": 3}}
    assert today(x=1, inference="rank", k=3, beams=2)["init_args"] == {"x": 1, "inference": rank}
    generate = {"class_path": "a.Generate", "init_args": {"beams": 2}}
    assert today(inference=None, k=3, beams=2)["init_args"] == {"inference": generate}
    for unchanged in ({"inference": rank}, {"inference": "unknown"}, {"x": 1}, {"inference": ["rank"]}):
        assert today(**unchanged)["init_args"] == unchanged


def test_a_mode_that_chose_what_are_two_classes_now(table: dict[str, renamed.Rule]) -> None:
    table["a.Task"] = choice("purpose", {"qa": ("a.Answers", ("words",)), "retrieval": ("a.Task", ())})
    assert today(purpose="qa", words=3, size=1) == {"class_path": "a.Answers", "init_args": {"size": 1}}
    assert today(purpose="retrieval", words=3) == {"class_path": "a.Task", "init_args": {"words": 3}}
    assert today(words=3) == {"class_path": "a.Task", "init_args": {"words": 3}}


def test_several_rules_and_what_is_told_of_them(table: dict[str, renamed.Rule]) -> None:
    table["a.Task"] = one_after_another(argument("old", "new"), part("tying", {"kron": ("a.Kron", ("terms",))}))
    found, changes = as_written_today([{"class_path": "a.Task", "init_args": {"old": 1, "tying": "kron", "terms": 2}}])
    tied = {"class_path": "a.Kron", "init_args": {"terms": 2}}
    assert found == [{"class_path": "a.Task", "init_args": {"new": 1, "tying": tied}}]
    assert changes == ["a.Task(old=1, tying='kron', terms=2) is read as a.Task(new=1, tying=Kron(terms=2))"]


def test_a_class_that_moved_and_is_rewritten(table: dict[str, renamed.Rule]) -> None:
    table[NEW] = lambda block: Block(block.class_path, {"only": 1})
    assert as_written_today(model(OLD))[0] == model(NEW, only=1)
    assert as_written_today({"class_path": OLD})[0] == {"class_path": NEW, "init_args": {"only": 1}}
