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


# --- options that became parts ---------------------------------------------------------------------------------------

MV, TASKS, BLIP = "methods.mv_adapter", "petl_bench.tasks", "petl_bench.backbones.blip"
KRONECKER = {"class_path": f"{MV}.Kronecker", "init_args": {"terms": 2}}
FACTOR = {"class_path": f"{MV}.Factor", "init_args": {"position": "up_in", "layers": 1, "dim": 16}}
OF_FACTOR = {"cmt_position": "up_in", "cmt_layers": 1, "cmt_dim": 16}
CONDITIONED = {"class_path": f"{TASKS}.pooling.TextConditionedPooling", "init_args": {"temperature": 5.0}}
NEAREST = {"class_path": f"{TASKS}.reranking.Reranking", "init_args": {"k": 16, "beta": 0.0}}
GENERATE = {"class_path": f"{TASKS}.answering.Generate", "init_args": {"num_beams": 1, "max_length": 10}}
RANK = {"class_path": f"{TASKS}.answering.Rank", "init_args": {"answer_list": "a.json", "max_answers": None, "k": 128}}
OF_ANSWERS = {"answer_list": "a.json", "max_answers": None, "k_test": 128, "num_beams": 1, "max_length": 10}


@pytest.mark.parametrize(
    ("class_path", "before", "after"),
    [
        (f"{MV}.MVAdapter", {"tying": "kronecker", "kron_terms": 2, **OF_FACTOR}, {"tying": KRONECKER}),
        (f"{MV}.MVAdapter", {"tying": "factor", "kron_terms": 4, **OF_FACTOR}, {"tying": FACTOR}),
        (
            f"{MV}.MVAdapter",
            {"tying": "none", "kron_terms": 4, **OF_FACTOR},
            {"tying": {"class_path": f"{MV}.Untied", "init_args": {}}},
        ),
        (f"{MV}.MVAdapter", {"kron_terms": 2}, {"tying": KRONECKER}),
        (
            f"{TASKS}.retrieval.Retrieval",
            {"pooling": "mean", "temperature": None},
            {"pooling": {"class_path": f"{TASKS}.pooling.MeanPooling", "init_args": {}}},
        ),
        (
            f"{TASKS}.retrieval.Retrieval",
            {"pooling": "text_conditioned", "temperature": 5.0},
            {"pooling": CONDITIONED},
        ),
        (f"{TASKS}.matching.MatchingRetrieval", {"k_test": 16, "beta": 0.0}, {"reranking": NEAREST}),
        (f"{TASKS}.matching.MatchingRetrieval", {"k_test": None, "beta": 1.0}, {"reranking": None}),
        (f"{TASKS}.qa_generation.AnswerGeneration", {"inference": "generate", **OF_ANSWERS}, {"inference": GENERATE}),
        (f"{TASKS}.qa_generation.AnswerGeneration", {"inference": "rank", **OF_ANSWERS}, {"inference": RANK}),
    ],
)
def test_a_mode_is_a_part(class_path: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    def block(options: dict[str, Any]) -> dict[str, Any]:
        return {"class_path": class_path, "init_args": {"other": 1, **options}}

    found, changes = as_written_today(block(before))
    assert found == block(after)
    assert len(changes) == 1
    assert as_written_today(found) == (found, [])


def test_blip_is_two_classes() -> None:
    options = {"architecture": "tiny", "caption_words": 30}
    for purpose, name, kept in (("retrieval", "BLIP", options), ("qa", "BLIPVQA", {"architecture": "tiny"})):
        before = {"class_path": f"{BLIP}.BLIP", "init_args": {**options, "purpose": purpose}}
        assert as_written_today(before)[0] == {"class_path": f"{BLIP}.{name}", "init_args": kept}


def test_parts_of_what_a_checkpoint_depends_on() -> None:
    before = {
        "model.class_path": f"{MV}.MVAdapter",
        "model.init_args.tying": "kronecker",
        "model.init_args.kron_terms": 4,
        **{f"model.init_args.{name}": value for name, value in OF_FACTOR.items()},
        "model.init_args.task.class_path": f"{TASKS}.qa_generation.AnswerGeneration",
        "model.init_args.task.init_args.inference": "rank",
        "model.init_args.task.init_args.answer_list": "sha256:1",
        "model.init_args.task.init_args.max_answers": None,
        "model.init_args.task.init_args.num_beams": 3,
    }
    inference = "model.init_args.task.init_args.inference"
    assert settings_of_today(before) == {
        "model.class_path": f"{MV}.MVAdapter",
        "model.init_args.task.class_path": f"{TASKS}.qa_generation.AnswerGeneration",
        f"{inference}.class_path": f"{TASKS}.answering.Rank",
        f"{inference}.init_args.answer_list": "sha256:1",
        f"{inference}.init_args.max_answers": None,
        "model.init_args.tying.class_path": f"{MV}.Kronecker",
        "model.init_args.tying.init_args.terms": 4,
    }
