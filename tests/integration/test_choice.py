"""Questions with choices through the command line: training, files, reports, and adapters of retrieval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petl_bench.fixture import WRITERS
from petl_bench.main import main
from petl_bench.metrics.ranks import figures_of
from petl_bench.runs.record import FILE_NAME
from tests.integration.fixture_run import only_record, run


@pytest.fixture(scope="module")
def nextqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choice") / "nextqa"
    WRITERS["nextqa"](folder, train_videos=16, test_videos=4, size=32, seconds=1)
    return folder


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choice") / "msrvtt"
    WRITERS["msrvtt_mc"](folder, train_videos=12, test_videos=6, captions_per_video=1, size=32, seconds=1)
    return folder


def test_a_run_its_record_and_what_is_made_of_it(
    nextqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in ("nextqa_full", "nextqa_lora"):
        assert run("fit", config, nextqa, tmp_path, "--data.init_args.max_words=32") == 0
    assert "descriptive" in capsys.readouterr().out
    folders = sorted(path.parent for path in tmp_path.rglob(FILE_NAME))
    record = json.loads((folders[0] / FILE_NAME).read_text())
    assert record["protocol"]["metric_version"] == "choice-accuracy/1, ties within 1e-06"
    assert record["eval"]["n"] == 16
    assert record["eval"]["chance"] == pytest.approx(20)
    assert record["eval"]["n_per_group"] == {"temporal": 8, "descriptive": 4, "causal": 4}
    with np.load(folders[0] / "ranks.npz") as ranks:
        found = dict(ranks)
    figures = figures_of(found)
    assert {name: record["eval"][name] for name in figures} == figures
    assert found["text_id"][0].endswith("_0")
    assert set(found["chosen"]) <= set(range(5))

    assert main(["predict", f"--ckpt_path={folders[0] / 'adapter.safetensors'}"]) == 0
    chosen = json.loads((folders[0] / "choices.json").read_text())
    assert [one["prediction"] for one in chosen.values()] == found["chosen"].tolist()
    assert list(chosen) == found["text_id"].tolist()

    capsys.readouterr()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "Accuracy causal ±" in capsys.readouterr().out
    assert main(["compare", *map(str, folders)]) == 0
    assert "Accuracy causal" in capsys.readouterr().out


def test_an_adapter_of_retrieval_is_evaluated_by_choosing(
    msrvtt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "msrvtt_lora", msrvtt, tmp_path, "--data.init_args.augmentation=null") == 0
    folder, of_retrieval = only_record(tmp_path)
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    on_choices = ("--config=msrvtt_mc", f"--data.init_args.root={msrvtt}", "--data.init_args.partial=true")
    assert main(["test", adapter, *on_choices, "--trainer.logger=false"]) == 0
    record = record_of(folder, "msrvtt-mc-v1_choice")
    assert record["model"]["method"] == of_retrieval["model"]["method"]
    assert record["protocol"]["id"] == "msrvtt-mc/v1"
    assert record["protocol"]["preprocess"]["frames"] == of_retrieval["protocol"]["preprocess"]["frames"]
    assert record["model"]["trained_on"] == {
        "task": "retrieval",
        "protocol": "msrvtt-1kA-9k/v1",
        "split_sha256": of_retrieval["protocol"]["split_sha256"],
        "videos": 12,
    }
    assert record["eval"]["n"] == 6
    assert len(list(folder.glob("test_msrvtt-mc-v1_choice_????????_ranks.npz"))) == 1
    assert not (folder / "test.json").exists()

    pair = {
        "src_dataset": "MSRVTT",
        "caption": "a red circle",
        "counterfactual": "a blue square",
        "aspect": "Direction",
    }
    lines = [json.dumps(pair | {"video_name": f"video{number}.mp4"}) for number in (12, 13)]
    (msrvtt / "Direction.jsonl").write_text("\n".join(lines), encoding="utf-8")
    on_pairs = ("--config=vitatecs", f"--data.init_args.root={msrvtt}", "--data.init_args.partial=true")
    pairs_only = ("--data.init_args.aspect=direction", "--trainer.logger=false")
    assert main(["test", adapter, *on_pairs, *pairs_only]) == 0
    record = record_of(folder, "vitatecs-direction-v1_choice")
    assert record["protocol"]["id"] == "vitatecs-direction/v1"
    assert record["eval"]["n_per_type"] == {"direction": 2}

    pairs = folder / "pairs"
    WRITERS["pairs"](pairs, test_videos=1)
    assert main(["test", adapter, "--config=minimal_pairs", f"--data.init_args.root={pairs}", pairs_only[-1]]) == 0
    record = record_of(folder, "minimal-pairs-v1_choice")
    assert record["model"]["method"] == of_retrieval["model"]["method"]
    assert len(record["eval"]["per_type"]) == 7
    # Mean pooling reads no order.
    assert [record["eval"]["per_type"][axis] for axis in ("direction", "order", "relation")] == [50.0] * 3

    full = ("--data=data/msrvtt.yaml", "--data.init_args.split_protocol=full", f"--data.init_args.root={msrvtt}")
    more = ("--data.init_args.augmentation=null", "--trainer.logger=false")
    assert main(["test", adapter, *full, *more]) == 4
    assert "expected 2990" in capsys.readouterr().err
    assert main(["test", adapter, *full, *more, "--data.init_args.partial=true"]) == 0
    record = record_of(folder, "msrvtt-full-v1_retrieval")
    assert record["model"]["trained_on"]["protocol"] == "msrvtt-1kA-9k/v1"
    assert not (folder / "test.json").exists()
    assert main(["test", adapter, "--trainer.logger=false"]) == 0
    assert "trained_on" not in json.loads((folder / "test.json").read_text())["model"]

    asked = json.loads((msrvtt / "msrvtt_mc_test.json").read_text())
    seen = msrvtt / "seen.json"
    seen.write_text(json.dumps([{**asked[0], "video": "video0.mp4"}]), encoding="utf-8")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.msrvtt_mc._PROTOCOL", patch_protocol())
        more = ("--data.init_args.test_file=seen.json", "--data.init_args.partial=false")
        assert main(["test", adapter, *on_choices, *more]) == 4
    told = capsys.readouterr().err
    assert "was trained (msrvtt-1kA-9k/v1) on 1 of the 1 videos that it is to be evaluated on: 'video0'" in told


def test_an_adapter_of_matching_is_evaluated_by_what_it_matches(msrvtt: Path, tmp_path: Path) -> None:
    assert run("fit", "msrvtt_uniadapter", msrvtt, tmp_path, "--model.init_args.bottleneck_dim=8") == 0
    folder, of_matching = only_record(tmp_path)
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    data = (f"--data.init_args.root={msrvtt}", "--data.init_args.partial=true", "--trainer.logger=false")
    found = {}
    by = (
        ("msrvtt_mc", "choice", "cosine of each option"),
        ("msrvtt_mc_blip", "choice_matching", "matching logit of each option"),
    )
    for config, task, score in by:
        assert main(["test", adapter, f"--config={config}", *data]) == 0
        record = record_of(folder, f"msrvtt-mc-v1_{task}")
        assert record["protocol"]["inference"]["answers"] == score
        assert record["model"]["trained_on"]["task"] == "matching"
        assert record["model"]["trainable_params"] == of_matching["model"]["trainable_params"]
        found[config] = record["protocol"]
    assert len(list(folder.glob("test_*.json"))) == 2
    assert found["msrvtt_mc_blip"]["metric_version"] == "choice-accuracy/1, ties within 1e-04"
    assert found["msrvtt_mc"]["inference"]["pooling"] == "mean"
    assert main(["predict", adapter, "--config=msrvtt_mc_blip", *data]) == 0
    asked = json.loads((msrvtt / "msrvtt_mc_test.json").read_text())
    (answers,) = folder.glob("choices_msrvtt-mc-v1_choice_matching_*.json")
    chosen = json.loads(answers.read_text())
    assert list(chosen) == [one["video"].removesuffix(".mp4") for one in asked]
    assert set(chosen.values()) <= set(range(5))

    assert main(["report", str(tmp_path), f"--out={tmp_path / 'report'}"]) == 0
    tables = json.loads((tmp_path / "report/report.json").read_text())["tables"]
    marks = {table["protocol"]: [row["marks"] for row in table["rows"]] for table in tables}
    by_choice = [table for table in tables if table["protocol"] == "msrvtt-mc/v1"]
    assert len(by_choice) == 2  # of two ways of scoring
    assert all("trained on msrvtt-1kA-9k/v1" in own for own in marks["msrvtt-mc/v1"])
    assert "trained on" not in str(marks["msrvtt-1kA-9k/v1"])


def record_of(folder: Path, protocol_and_task: str) -> dict[str, Any]:
    """Of the only test under a protocol, of generated files, whose digest is a part of the name."""
    (path,) = folder.glob(f"test_{protocol_and_task}_????????.json")
    return json.loads(path.read_text())


def patch_protocol() -> object:
    """That of a single clip."""
    from petl_bench.data.samples import Protocol

    return Protocol("msrvtt-mc/v1", {"test": 1}, {"test": 1})


def test_there_is_nothing_to_train_on(msrvtt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--data=data/msrvtt_mc.yaml", f"--data.init_args.root={msrvtt}", "--model.init_args.task=task/choice.yaml")
    assert run("fit", "msrvtt_lora", msrvtt, tmp_path, *more) == 2
    assert "msrvtt-mc/v1 has no training split" in capsys.readouterr().err
