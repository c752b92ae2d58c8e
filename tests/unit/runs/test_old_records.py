"""Records of the first version in the layout of this one; tests/integration/test_old_files.py has real ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from petl_bench.report.collect import comparability_key, unknown_fields
from petl_bench.runs.record import read_result
from petl_bench.storage.files import FileError
from tests.records import make_first_record, make_record


def written(folder: Path, record: dict[str, Any], config: dict[str, Any] | None = None) -> Path:
    """A record, and the configuration of its run beside it."""
    if config is not None:
        text = yaml.safe_dump(config)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        record["integrity"]["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    return folder / "result.json"


def config_of(**options: Any) -> dict[str, Any]:
    backbone = {key: value for key, value in options.items() if key in ("purpose", "caption_words")}
    task = {key: value for key, value in options.items() if key == "temperature"}
    trainer = {"max_steps": options.get("max_steps", -1)}
    init = {"backbone": {"init_args": backbone}, "task": {"init_args": task}}
    return {"trainer": trainer, "model": {"init_args": init}}


def test_fields_that_nobody_filled_are_left_out(tmp_path: Path) -> None:
    record = read_result(written(tmp_path, make_first_record()))
    text = json.dumps(record)
    assert not [name for name in ("qb_norm", "extra_inference", "texts_per_s", "ms_per_query") if name in text]
    assert record == make_record(protocol__preprocess_sha256=record["protocol"]["preprocess_sha256"])


def test_what_would_have_been_another_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="qb_norm"):
        read_result(written(tmp_path, make_first_record(protocol__inference__qb_norm=True)))


@pytest.mark.parametrize(
    ("sampler", "known"),
    [
        ("uniform@1fps", {"frames": 12, "sampling": "uniform", "frame_rate": 1, "text_words": None}),
        ("segment_middle@allfps", {"frames": 12, "sampling": "segment_middle", "frame_rate": None, "text_words": None}),
        ("uniform", {"frames": 12, "text_words": None}),
        (None, {"frames": 12, "text_words": None}),
    ],
)
@pytest.mark.parametrize("missing", [True, False])
def test_a_record_without_preprocessing(sampler: str | None, known: dict, missing: bool, tmp_path: Path) -> None:
    """It is read, and compared with no other."""
    record = make_first_record(protocol__preprocess={}, protocol__inference__sampler=sampler)
    if missing:
        del record["protocol"]["preprocess"], record["protocol"]["preprocess_sha256"]
    found = read_result(written(tmp_path, record))
    assert found["protocol"]["preprocess"] == known
    unknown = unknown_fields(comparability_key(found))
    assert {"protocol.preprocess.image_size", "protocol.preprocess.reader"} <= set(unknown)


def test_memory_of_a_whole_process_is_not_what_training_added(tmp_path: Path) -> None:
    assert read_result(written(tmp_path, make_first_record(env__gpu=None)))["train"]["peak_allocated_bytes"] is None
    assert read_result(written(tmp_path, make_first_record()))["train"]["peak_allocated_bytes"] == [
        7_000_000_000,
        8_000_000_000,
    ]


@pytest.mark.parametrize(
    ("backbone", "config", "words"),
    [
        ("clip-vit-b-16", None, None),
        ("blip-base", config_of(purpose="retrieval", caption_words=40), 40),
        ("blip-base", config_of(purpose="qa", caption_words=40), 50),
        ("blip-base", config_of(purpose="retrieval"), "unknown"),
        ("blip-base", None, "unknown"),
    ],
)
def test_words_that_blip_kept(backbone: str, config: dict[str, Any] | None, words: Any, tmp_path: Path) -> None:
    record = read_result(written(tmp_path, make_first_record(model__backbone=backbone), config))
    assert record["protocol"]["preprocess"].get("text_words", "unknown") == words


@pytest.mark.parametrize(
    ("pooling", "config", "temperature"),
    [
        ("mean", None, None),
        (None, None, None),
        ("text_conditioned", config_of(temperature=5.0), 5.0),
        ("text_conditioned", None, "unknown"),
    ],
)
def test_temperature_of_pooling(
    pooling: str | None, config: dict[str, Any] | None, temperature: Any, tmp_path: Path
) -> None:
    record = read_result(written(tmp_path, make_first_record(protocol__inference__pooling=pooling), config))
    assert record["protocol"]["inference"].get("temperature", "unknown") == temperature


def test_answers_that_were_chosen_from(tmp_path: Path) -> None:
    answers = {"accuracy": 1.0, "per_type": {}, "n": 1, "cost": {"clips_per_s": None}}
    vocabulary = {"file": "answers.json", "sha256": "9" * 64, "size": 3, "coverage": 50.0}
    for how, chosen in (("rank, k_test 128 of 3", "9" * 64), ("classifier", None)):
        record = make_first_record(eval=answers | {"vocabulary": vocabulary}, protocol__inference__answers=how)
        assert read_result(written(tmp_path, record))["protocol"]["inference"]["answer_list"] == chosen


@pytest.mark.parametrize(("steps", "limits"), [(-1, None), (1000, {"max_steps": "1000"}), (2000, None)])
def test_a_run_that_max_steps_cut(steps: int, limits: dict[str, str] | None, tmp_path: Path) -> None:
    record = read_result(written(tmp_path, make_first_record(), config_of(max_steps=steps)))
    assert record["train"].get("limits") == limits


@pytest.mark.parametrize("why", ["changed", "of a test", "no YAML", "no mapping", "gone"])
def test_a_configuration_that_is_not_that_of_the_run_says_nothing(why: str, tmp_path: Path) -> None:
    path = written(
        tmp_path, make_first_record(model__backbone="blip-base"), config_of(purpose="retrieval", caption_words=40)
    )
    beside, record = tmp_path / "config.yaml", json.loads(path.read_text())
    text = {"changed": beside.read_text() + "\n", "no YAML": "{", "no mapping": "[1]"}.get(why)
    if text is not None:
        beside.write_text(text, encoding="utf-8")
    if why in ("no YAML", "no mapping"):
        record["integrity"]["config_sha256"] = hashlib.sha256(beside.read_bytes()).hexdigest()
    if why == "of a test":
        record["kind"] = "test"
    if why == "gone":
        beside.unlink()
    path.write_text(json.dumps(record), encoding="utf-8")
    assert "text_words" not in read_result(path)["protocol"]["preprocess"]


@pytest.mark.parametrize(
    "path",
    ["protocol", "protocol inference", "protocol preprocess", "model", "train steps", "eval", "env", "integrity"],
)
@pytest.mark.parametrize("value", ["x", [1], True])
def test_a_faulty_record_is_refused_in_one_line(path: str, value: Any, tmp_path: Path) -> None:
    *parents, name = path.split()
    record = make_first_record()
    block = record
    for parent in parents:
        block = block[parent]
    block[name] = value
    with pytest.raises(FileError):
        read_result(written(tmp_path, record))
