"""Two runs share a table if everything that decides the evaluation is equal, whatever their training was."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.msrvtt import MSRVTT
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.data.base import VideoTextDataModule
from petl_bench.fixture import write_fixture
from petl_bench.inputs import InputSpec
from petl_bench.metrics.wordnet import holds_wordnet, usual_folders
from petl_bench.report.collect import COMPARABLE, Run, comparability_key, unknown_fields
from petl_bench.report.tables import build_tables
from petl_bench.tasks.answering import Generate, Rank
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.pooling import TextConditionedPooling
from petl_bench.tasks.qa import QuestionAnswering
from petl_bench.tasks.qa_classifier import AnswerClassifier
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.reranking import Reranking
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.tasks.second_figures import NDCG
from tests.records import make_record

#: options of every data module that decide what is evaluated, with another value; the rest is training, or work
OF_DATA: dict[str, Any] = {"frames": 4, "frame_rate": 2, "sampling": "head", "max_words": 12, "reader": "decord"}
OF_DATA |= {"jpeg_quality": 95}
NOT_OF_DATA: dict[str, Any] = {
    "batch_size": 2,
    "eval_batch_size": 2,
    "train_captions": "one",
    "cache": Path("cache"),
    "on_cache_miss": "decode",
    "manifest": Path("manifest.jsonl"),
    "videos": "elsewhere",
    "num_workers": 0,
    "loader_timeout": 1,
    "val_videos": 2,
    "bad_videos": "tolerate",
    "augmentation": "rand-m7-n4-mstd0.5-inc1",
    "seed": 1,
}
#: linked from the model; where the dataset lies; what these four clips need, and marks a run
SET_HERE = {"root", "spec", "partial"}

OF_INPUT: dict[str, Any] = {
    "image_size": 64,
    "mean": (0.1, 0.5, 0.5),
    "std": (0.1, 0.5, 0.5),
    "resize": "squash",
    "text_words": 5,
}
#: how long a text could be, and what makes tokens of it, which the weights were trained with
NOT_OF_INPUT = {"context_length", "tokenizer"}

MATCHING = {"queue_size": 8}
CONDITIONED = TextConditionedPooling(5.0)


def ranked(listed: str = "answers", **options: Any) -> Callable[[Path], Rank]:
    """Made when the folder of answer lists is there."""
    return lambda folder: Rank(folder / f"{listed}.json", **options)


def wordnet(name: str) -> Callable[[Path], Path]:
    """A folder of WordNet's files in that of answer lists."""

    def copied(folder: Path) -> Path:
        return shutil.copytree(next(filter(holds_wordnet, usual_folders())), folder / name, dirs_exist_ok=True)

    return copied


#: task, options, what decides the evaluation, what does not; what is called gets the folder of answer lists
TASKS: tuple[tuple[type, dict[str, Any], list[tuple[str, Any]], dict[str, Any]], ...] = (
    (Retrieval, {}, [("pooling", CONDITIONED)], {"mask_duplicates": False, "second_figures": [NDCG()], "chunk": 2}),
    (Retrieval, {"pooling": CONDITIONED}, [("pooling", TextConditionedPooling(1.0))], {}),
    (
        MatchingRetrieval,
        MATCHING,
        [("reranking", Reranking(k=5)), ("reranking", Reranking(beta=0.0)), ("reranking", None)],
        {"negatives": "rank", "alpha": 0.1, "momentum": 0.5, "double_ema": True, "queue_size": 9}
        | {"second_figures": [NDCG()], "reranking": Reranking(tokens_in_memory=1.0)},
    ),
    (
        AnswerGeneration,
        {},
        [("inference", Generate(num_beams=2)), ("inference", Generate(max_length=5)), ("score", "vqa")],
        {"label_smoothing": 0.2},
    ),
    (
        AnswerGeneration,
        {"inference": ranked()},
        [
            *(("inference", value) for value in (ranked(k=5), ranked(max_answers=2), ranked("other"), Generate())),
            ("label_smoothing", 0.2),
            ("score", "vqa"),
        ],
        {},
    ),
    (
        AnswerGeneration,
        {"score": "wups", "root": lambda folder: folder, "wordnet": wordnet("one")},
        [],
        {"wordnet": wordnet("other")},
    ),
    (
        AnswerClassifier,
        {"answer_list": "answers"},
        [("score", "vqa")],
        # What a classifier can answer belongs to the model; the table says it.
        {"max_answers": 2, "hidden_dim": 3, "dropout": 0.5, "answer_list": "other"},
    ),
)
#: options of parts, all of which decide, but for operational ones; each stands above in the arguments of one
OF_PARTS = {
    TextConditionedPooling: {"temperature"},
    Reranking: {"k", "beta"},
    Generate: {"num_beams", "max_length"},
    Rank: {"answer_list", "max_answers", "k"},
}


def no_tokens(captions: Any, max_words: int) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("nothing is tokenised here")


SPEC = InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "shorter_side_crop", 77, no_tokens)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparability") / "data"
    write_fixture(folder, train_videos=8, test_videos=4, captions_per_video=1, size=32, seconds=0.5)
    (folder / "manifest.jsonl").touch()
    return folder


def options_of(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters) - {"self"}


def shares_a_table(one: dict[str, Any], other: dict[str, Any]) -> bool:
    runs = [Run(Path(f"{number}/result.json"), record) for number, record in enumerate((one, other))]
    return len(build_tables(runs)) == 1


# --- the fields of a record


def leaves(block: Any, path: str = "") -> Iterator[str]:
    for name, value in block.items():
        below = f"{path}__{name}" if path else name
        if isinstance(value, dict) and value:
            yield from leaves(value, below)
        else:
            yield below


def another(value: Any) -> Any:
    """A value of the same kind that is not the given one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [0.125, *value[1:]]
    return {str: "another", type(None): 7.0}.get(type(value), 4)


def value_at(record: dict[str, Any], path: str) -> Any:
    for name in path.split("__"):
        record = record[name]
    return record


EVALUATION = [
    *("origin", "protocol__dataset", "protocol__id", "protocol__split_sha256", "protocol__metric_version"),
    *(path for path in leaves(make_record()) if path.startswith(("protocol__preprocess__", "protocol__inference__"))),
    *("model__weights_sha256", "protocol__selection"),
]
#: how the model was trained, what it is, what was found, and where
OTHERS = [path for path in leaves(make_record()) if path not in EVALUATION and path not in ("schema", "status")]


@pytest.mark.parametrize("path", EVALUATION)
def test_a_field_of_the_evaluation_is_ground_for_another_table(path: str) -> None:
    value = {"origin": "fixture", "protocol__selection": "best-val"}.get(path) or another(value_at(make_record(), path))
    assert not shares_a_table(make_record(), make_record(**{path: value}))


@pytest.mark.parametrize("path", OTHERS)
def test_any_other_field_is_none(path: str) -> None:
    other = make_record(**{path: another(value_at(make_record(), path))})
    assert comparability_key(other) == comparability_key(make_record())


def test_the_list_is_in_the_record() -> None:
    assert unknown_fields(comparability_key(make_record())) == []
    named = {name.replace(".", "__") for name in COMPARABLE if not name.endswith("*")}
    assert named <= set(EVALUATION)


@pytest.mark.parametrize("path", [path for path in EVALUATION if "preprocess" in path or "temperature" in path])
def test_what_is_unknown_equals_nothing(path: str) -> None:
    def without(digit: str, seed: int = 0) -> dict[str, Any]:
        record = make_record(id__config_hash=digit * 64, id__seed=seed)
        *parents, name = path.split("__")
        del value_at(record, "__".join(parents))[name]
        return record

    assert not shares_a_table(make_record(), without("c"))
    assert not shares_a_table(without("c"), without("d"))
    assert shares_a_table(without("c"), without("c", seed=1)), "seeds of one configuration are of one kind"
    (table,) = build_tables([Run(Path("result.json"), without("c"))])
    assert any("does not say" in note and path.replace("__", ".") in note for note in table.notes)


def test_a_field_that_only_one_version_writes_is_told_in_both_tables() -> None:
    """Whatever else a later version finds to decide pixels or words is compared, too."""
    both = build_tables(
        Run(Path(f"{number}/result.json"), record)
        for number, record in enumerate((make_record(), make_record(protocol__preprocess__reading_rules=2)))
    )
    assert len(both) == 2
    notes = [note for table in both for note in table.notes if "Not comparable" in note]
    assert sum("protocol.preprocess.reading_rules (here unknown, there 2)" in note for note in notes) == 1
    assert sum("protocol.preprocess.reading_rules (here 2, there unknown)" in note for note in notes) == 1


def test_frames_that_went_through_jpeg_are_told_from_pixels() -> None:
    """A record that does not speak of JPEG is of pixels, also where an earlier version wrote it."""
    records = make_record(), make_record(protocol__preprocess__jpeg_quality=95)
    both = build_tables(Run(Path(f"{number}/result.json"), record) for number, record in enumerate(records))
    assert len(both) == 2
    notes = [note for table in both for note in table.notes if "Not comparable" in note]
    assert sum("protocol.preprocess.jpeg_quality (here none, there 95)" in note for note in notes) == 1
    assert sum("protocol.preprocess.jpeg_quality (here 95, there none)" in note for note in notes) == 1
    assert any("jpeg_quality 95" in note for table in both for note in table.notes if "Shared by all rows" in note)


@pytest.mark.parametrize(
    ("trained", "tested", "mark"),
    [(95, None, "trained on JPEG 95"), (None, 95, "trained on pixels"), (95, 95, None), (None, None, None)],
)
def test_what_was_trained_on_other_pixels_than_it_is_tested_on_is_marked(
    trained: int | None, tested: int | None, mark: str | None
) -> None:
    known = {"epochs": 5.0, "steps": 9} | ({} if trained is None else {"jpeg_quality": trained})
    changes = {} if tested is None else {"protocol__preprocess__jpeg_quality": tested}
    record = make_record(kind="test", train=None, model__trained=known, **changes)
    (table,) = build_tables([Run(Path("0/test.json"), record)])
    marks = [found for found in table.rows[0].marks if "JPEG" in found or "pixels" in found]
    assert marks == ([] if mark is None else [mark])


# --- options


def protocol(root: Path, spec: InputSpec = SPEC, **options: Any) -> dict[str, Any]:
    """A record with what a data module says of its evaluation."""
    usual: dict[str, Any] = {"partial": True, "num_workers": 1}
    data = MSRVTT(root=root, spec=spec, **{**usual, **options})
    record = make_record()
    record["protocol"] |= data.protocol_record()
    return record


def test_every_option_of_a_data_module_is_one_or_the_other() -> None:
    """A new option is sorted here: does it change what is evaluated, or how the model was trained, or neither?"""
    assert options_of(VideoTextDataModule) == OF_DATA.keys() | NOT_OF_DATA.keys() | SET_HERE


def test_a_data_module_says_all_that_is_compared(root: Path) -> None:
    assert unknown_fields(comparability_key(protocol(root))) == []


@pytest.mark.parametrize("name", OF_DATA)
def test_what_data_decide(name: str, root: Path) -> None:
    assert not shares_a_table(protocol(root), protocol(root, **{name: OF_DATA[name]}))


@pytest.mark.parametrize("name", NOT_OF_DATA)
def test_what_data_do_not_decide(name: str, root: Path) -> None:
    assert shares_a_table(protocol(root), protocol(root, **{name: NOT_OF_DATA[name]}))


def test_the_test_split_decides(root: Path, tmp_path: Path) -> None:
    assert not shares_a_table(protocol(root), protocol(root, split_protocol="full"))
    (root / "mine.csv").write_text((root / "MSRVTT_JSFUSION_test.csv").read_text().rsplit("\n", 2)[0] + "\n")
    assert not shares_a_table(protocol(root), protocol(root, test_list="mine.csv"))


def test_what_a_backbone_expects_of_its_input_decides(root: Path) -> None:
    assert {field.name for field in fields(InputSpec)} == OF_INPUT.keys() | NOT_OF_INPUT
    for name, value in OF_INPUT.items():
        assert not shares_a_table(protocol(root), protocol(root, replace(SPEC, **{name: value}))), name


def test_blip_says_how_many_words_it_keeps() -> None:
    kept = {words: BLIP("tiny", None, caption_words=words).spec.text_words for words in (30, 40)}
    assert kept == {30: 30, 40: 40}
    assert BLIPVQA("tiny", None).spec.text_words == 50


def evaluated(kind: type, options: dict[str, Any], answers: Path) -> dict[str, Any]:
    """A record with what a task says of an evaluation of one video and one text."""
    if options.get("answer_list"):
        options = options | {"answer_list": (answers / options["answer_list"]).with_suffix(".json")}
    task = kind(**{name: value(answers) if callable(value) else value for name, value in options.items()})
    record = make_record(protocol__metric_version=task.metric_version)
    if isinstance(task, QuestionAnswering):
        task.metric.update(torch.tensor([0]), ["red"], [("red",)], ["what"])
        inference = task.compute().inference
    else:
        inference = task.inference()
    record["protocol"]["inference"] |= inference
    return record


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    for name, listed in {"answers": ["red", "green", "blue"], "other": ["red", "green", "white"]}.items():
        asked = [{"question": "what", "answer": answer} for answer in listed]
        (folder / name).with_suffix(".json").write_text(json.dumps(asked), encoding="utf-8")
    (folder / "stopwords.txt").write_text("the")
    return folder


def test_every_option_of_a_task_is_one_or_the_other() -> None:
    for kind in {kind for kind, *_ in TASKS}:
        sorted_here = {name for of, options, deciding, others in TASKS if of is kind for name in (*options, *others)}
        sorted_here |= {name for of, _, deciding, _ in TASKS if of is kind for name, _ in deciding}
        assert options_of(kind) - SET_HERE <= sorted_here, kind.__name__


@pytest.mark.parametrize("part", OF_PARTS, ids=lambda part: part.__name__)
def test_every_option_of_a_part_is_known(part: type) -> None:
    assert options_of(part) - getattr(part, "operational", frozenset()) == OF_PARTS[part]


@pytest.mark.parametrize(
    ("kind", "options", "name", "value", "decides"),
    [
        pytest.param(
            kind,
            options,
            name,
            value,
            decides,
            id=f"{kind.__name__}-{'-'.join(options)}-{name}-{place}",
            marks=[pytest.mark.needs_wordnet] if "wordnet" in options else [],
        )
        for kind, options, deciding, others in TASKS
        for values, decides in ((deciding, True), (others.items(), False))
        for place, (name, value) in enumerate(values)
    ],
)
def test_what_a_task_decides(
    kind: type, options: dict[str, Any], name: str, value: Any, decides: bool, answers: Path
) -> None:
    one, other = evaluated(kind, options, answers), evaluated(kind, options | {name: value}, answers)
    assert shares_a_table(one, other) != decides
