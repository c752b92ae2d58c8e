"""`petl-bench doctor`: says what a run would stumble over, fetches nothing and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import av
import pytest

from petl_bench.backbones.clip import model
from petl_bench.data import video
from petl_bench.hub import answers
from petl_bench.main import main

RUN = ("--config=fixture_lora", "--data.partial=true")


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[str, int]]]:
    """Exit code, and what was found by name."""
    capsys.readouterr()
    code = main(["doctor", "--json", *arguments])
    return code, {found["what"]: (found["told"], found["code"]) for found in json.loads(capsys.readouterr().out)}


def test_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = findings(capsys)
    assert code == 0
    assert "PyAV" in found["decoder"][0]
    assert main(["doctor"]) == 0
    assert "ok   torch" in capsys.readouterr().out


def test_a_run_that_can_begin(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "create_open_clip", None)  # no backbone is made
    code, found = findings(capsys, *RUN, f"--data.root={dataset}")
    assert code == 0
    assert found["annotations"][0].endswith(": 16 train, 4 test clips")
    assert found["clips"][0].startswith("all that fit reads are in ")
    assert found["reader"][0] == f"pyav {av.__version__}"
    assert found["weights"][0] == "clip_small: 4.1 MB on this machine"
    assert found["next"][0] == f"petl-bench fit {' '.join(RUN)} --data.root={dataset}"
    assert not list(tmp_path.iterdir())


def test_a_reader_that_cannot_be_loaded(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(video, "_is_installed", lambda package: True)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # as where FFmpeg's libraries are not found
    monkeypatch.setattr(video, "package_version", lambda package: "0.17.0")
    code, found = findings(capsys, *RUN, f"--data.root={dataset}", "--data.reader=torchcodec")
    assert code == found["reader"][1] == 2
    assert "cannot load the shared libraries of FFmpeg" in found["reader"][0]


def test_what_is_wrong_with_the_data(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = findings(capsys, *RUN, "--data.root=/nowhere")
    assert (code, found["annotations"][1], found["next"][1]) == (4, 4, 4)
    assert "data.root /nowhere is no folder" in found["annotations"][0]
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    min((copy / "videos").iterdir()).unlink()
    code, found = findings(capsys, *RUN, f"--data.root={copy}")
    assert (code, found["clips"][1]) == (4, 4)
    code, found = findings(capsys, *RUN, f"--data.root={copy}", "--data.bad_videos=tolerate")
    assert (code, found["clips"][0]) == (0, "1 are missing, which data.bad_videos tolerates")


@pytest.mark.parametrize(
    ("pretrained", "code", "words"),
    [
        ("openai", 5, "not in the local cache, and cannot be downloaded: no answer"),
        ("hf-hub:someone/clip", 5, "not in the local cache, and cannot be downloaded: no answer"),
        ("opnai", 2, "is no file, folder, hf-hub:owner/name or open_clip tag"),
        ("null", 0, "random"),
    ],
)
def test_weights(
    pretrained: str,
    code: int,
    words: str,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def silent(repository: str) -> None:
        asked.append(repository)
        raise answers.CheckpointError("no answer")

    monkeypatch.setattr(answers, "_require_answer", silent)
    backbone = ("--model.backbone.architecture=ViT-B-32-quickgelu", f"--model.backbone.pretrained={pretrained}")
    found_code, found = findings(capsys, *RUN, f"--data.root={dataset}", *backbone)
    assert found_code == found["weights"][1] == code
    assert words in found["weights"][0]
    assert len(asked) == (code == 5)  # once


def test_a_run_looks_at_its_data_before_it_makes_a_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "find_weights", None)  # which would fetch weights
    for command, *more in (["fit"], ["validate", "--zero_shot=true"], ["test", "--zero_shot=true"]):
        assert main([command, "--config=fixture_lora", "--data.root=/nowhere", *more]) == 4
        assert "data.root /nowhere is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
