"""What `petl-bench data info` says of each dataset, and that it is what the data modules assert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.msrvtt import MSRVTT
from petl_bench.commands.data_info import KEYS, described
from petl_bench.errors import UsageError
from petl_bench.main import main
from petl_bench.registry import Entry, list_entries

ENTRIES = {entry.name: entry for entry in list_entries("datamodules")}
OWN_FILES = {"Custom", "CustomQA"}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_dataset_is_described(name: str) -> None:
    found = described(ENTRIES[name])
    assert list(found) == ["name", "summary", *KEYS]
    assert all(file.keys() - {"size"} == {"name", "from", "holds"} for file in found["files"])
    assert all(one.keys() == {"held", "then"} for one in found["often_wrong"])


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - OWN_FILES))
def test_counts_are_those_that_are_asserted(name: str, tmp_path: Path) -> None:
    protocol = ENTRIES[name].load()(root=tmp_path).protocol
    counts = described(ENTRIES[name])["counts"][protocol.id]
    assert counts["videos"] == dict(protocol.videos)
    assert counts["captions"] == dict(protocol.captions)
    assert counts.get("sentences", {}) == dict(protocol.sentences)


def test_counts_of_all_protocols_of_msrvtt(tmp_path: Path) -> None:
    protocols = [MSRVTT(tmp_path, split_protocol=name).protocol for name in ("1kA-9k", "1kA-7k", "full")]
    expected = {one.id: {"videos": dict(one.videos), "captions": dict(one.captions)} for one in protocols}
    assert described(ENTRIES["MSRVTT"])["counts"] == expected


@pytest.mark.parametrize("name", ["MSRVTTQA", "msrvtt_qa", "msrvtt-qa"])
def test_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("MSRVTTQA\n")
    assert "train_ans2label.json" in printed
    assert "msrvtt-qa/v1: videos: val 497; captions: train 158,581, val 12,278, test 72,821" in printed


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "lsmdc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == described(ENTRIES["LSMDC"])


def test_what_is_none_is_refused_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "kinetics"]) == 2
    error = capsys.readouterr().err
    assert "no dataset is called 'kinetics'" in error
    assert "MSRVTT, " in error


def test_a_module_of_somebody_else_may_have_one_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_clips.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry("SomeClips", "some_clips", "Clips of somebody.")
    assert described(entry) == {"name": "SomeClips", "summary": "Clips of somebody."}
    beside = tmp_path / "some_clips.yaml"
    beside.write_text("SomeClips: {licence: mine}", encoding="utf-8")
    assert described(entry)["licence"] == "mine"
    beside.write_text("SomeClips: {colour: red}", encoding="utf-8")
    with pytest.raises(UsageError, match="SomeClips must say some of licence"):
        described(entry)
