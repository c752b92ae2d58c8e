"""What `petl-bench data info` says of each dataset, and that it is what the data modules assert."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from petl_bench.cli.dataset_descriptions import KEYS, described
from petl_bench.data.samples import Protocol
from petl_bench.errors import UsageError
from petl_bench.main import main
from petl_bench.registry import Entry, list_entries

ENTRIES = {entry.name: entry for entry in list_entries("datamodules")}
OWN_FILES = {"Custom", "CustomQA"}
#: options that are part of the name of a protocol
NAMING = ("split_protocol", "sentence_order", "train_on", "test_on", "aspect", "source", "references_file")


@pytest.mark.parametrize("name", ENTRIES)
def test_every_dataset_is_described(name: str) -> None:
    found = described(ENTRIES[name])
    assert list(found) == ["name", "summary", *KEYS]
    assert all(file.keys() - {"size"} == {"name", "from", "holds"} for file in found["files"])
    assert all(one.keys() == {"held", "then"} for one in found["often_wrong"])


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - OWN_FILES))
def test_counts_are_those_that_are_asserted(name: str, tmp_path: Path) -> None:
    every = protocols_of(ENTRIES[name].load(), tmp_path)
    protocols = {protocol.id: protocol for protocol in every if protocol.videos or protocol.captions}
    found = described(ENTRIES[name])["counts"]
    assert found.keys() == protocols.keys()
    for id, counts in found.items():
        protocol = protocols[id]
        assert counts["videos"] == dict(protocol.videos)
        assert counts.get("questions", counts.get("captions")) == dict(protocol.captions)
        assert counts.get("sentences", {}) == dict(protocol.sentences)
        assert counts.get("files", {}) == dict(protocol.files)


def protocols_of(module: Any, root: Path) -> Iterator[Protocol]:
    """All that its options name, but those that do not go together."""
    options = inspect.signature(module.__init__, eval_str=True).parameters
    chosen = {name: values_of(options[name]) for name in NAMING if name in options}
    for values in itertools.product(*chosen.values()):
        with suppress(UsageError):
            yield module(root=root, **dict(zip(chosen, values, strict=True))).protocol


def values_of(option: inspect.Parameter) -> tuple[Any, ...]:
    """All that a choice may be; of the name of a file that may be left out, its default and none."""
    return get_args(option.annotation) if get_origin(option.annotation) is Literal else (option.default, None)


@pytest.mark.parametrize("name", ["MSRVTTQA", "msrvtt_qa", "msrvtt-qa"])
def test_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("MSRVTTQA\n")
    assert "train_ans2label.json" in printed
    assert printed.endswith("petl-bench data describe --config data/msrvtt_qa.yaml --data.root FOLDER\n")
    assert "msrvtt-qa/v1: videos: val 497; questions: train 158,581, val 12,278, test 72,821" in printed


def test_clips_that_are_parts_of_videos_are_told_from_their_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "youcook2"]) == 0
    told = "clips: train 10,337, test 3,350; captions: train 10,337, test 3,350; video files: train 1,333, test 436"
    assert f"youcook2-mil-nce/v1: {told}" in capsys.readouterr().out


def test_what_else_a_module_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "tgif_qa"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("TGIFAction\n")
    assert "Beside it: petl-bench data info TGIFTransition | TGIFFrameQA | TGIFCount\n" in printed


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
