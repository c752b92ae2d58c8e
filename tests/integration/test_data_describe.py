"""`petl-bench data describe`: what it prints, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.msrvtt import MSRVTT
from petl_bench.data.samples import Protocol
from petl_bench.main import main


def describe(capsys: pytest.CaptureFixture[str], config: str, root: Path, *more: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["data", "describe", "--config", config, "--data.root", str(root), *more]) == code
    return json.loads(capsys.readouterr().out)


def test_a_generated_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = describe(capsys, "data/msrvtt.yaml", dataset, "--data.partial", "true")
    assert found["protocol"] == "msrvtt-1kA-9k/v1"
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert (train["videos"], train["captions"], train["captions_per_video"]["max"]) == (16, 32, 2)
    assert (test["videos"], test["captions"], test["missing_files"]) == (4, 4, 0)
    assert found["videos_in_train_and_test"] == 0


def test_the_share_that_is_cut(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--data.partial=true", "--data.max_words=4")
    assert describe(capsys, "data/msrvtt.yaml", dataset, *more)["splits"]["test"]["cut_share"] == 1


def test_questions(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = describe(capsys, "data/fixture_qa.yaml", dataset)["splits"]["test"]
    assert found["questions"] > found["videos"] == 4
    assert sum(found["question_types"].values()) == found["questions"]


def test_less_than_a_protocol_has_is_a_part_of_it(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "describe", "--config=data/msrvtt.yaml", f"--data.root={dataset}"]) == 0
    printed = capsys.readouterr()
    train = json.loads(printed.out)["splits"]["train"]
    assert "train split has 16 videos, expected 9000: a file is cut" in train["partial"]
    assert (train["videos"], train["captions"]) == (16, 32)
    assert "train, test: less than the protocol has" in printed.err


def test_more_than_a_protocol_has_is_an_error(
    dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = Protocol("msrvtt-1kA-9k/v1", {"train": 15, "test": 4}, {"train": 40})
    monkeypatch.setattr(MSRVTT, "protocol", fewer)
    found = describe(capsys, "data/msrvtt.yaml", dataset, code=4)["splits"]
    assert "train split has 16 videos, expected 15" in found["train"]["error"]
    assert found["train"]["videos"] == 16
    assert "partial" not in found["test"]


def test_a_faulty_split_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.csv").write_text("video;caption\nx;one\n\n")
    (tmp_path / "val.csv").write_text("x,one\n")
    (tmp_path / "test.json").write_text('[{"video": "y", "caption": "two", "end": Infinity}]')
    more = ("--data.val_file=val.csv", "--data.test_file=test.json")
    splits = describe(capsys, "data/custom.yaml", tmp_path, *more, code=4)["splits"]
    assert splits["train"]["captions"] == 1
    assert "no column 'video' in its header (x, one)" in splits["val"]["error"]
    assert "test.json, record 0: 'end' is inf" in splits["test"]["error"]


def test_lists_without_captions_are_still_counted(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shared / "data/annotations/msrvtt"
    for protocol, videos in (("1kA-9k", 9000), ("1kA-7k", 7010), ("full", 6513)):
        found = describe(capsys, "data/msrvtt.yaml", root, f"--data.split_protocol={protocol}")
        assert found["splits"]["train"]["videos"] == videos
        assert "MSRVTT_data.json" in found["splits"]["train"]["missing"]
    assert describe(capsys, "data/msrvtt.yaml", root)["splits"]["test"]["captions"] == 1000


def test_where_nothing_is_there_nothing_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = describe(capsys, "data/msvd.yaml", tmp_path, code=4)["splits"]
    assert all("none of raw-captions.pkl" in split["missing"] for split in splits.values())


def test_real_paragraphs(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = describe(capsys, "data/activitynet.yaml", shared / "data/annotations/activitynet")["splits"]
    assert (found["train"]["videos"], found["train"]["sentences"]) == (10_009, 37_421)
    assert (found["test"]["videos"], found["test"]["sentences"]) == (4_917, 17_505)
    # counted with CLIP's tokenizer alone: tokens beyond 64 in 29 % of the training paragraphs and 26 % of the others
    assert found["train"]["cut_share"] == pytest.approx(0.29, abs=0.005)
    assert found["test"]["cut_share"] == pytest.approx(0.26, abs=0.005)
