"""Figures beside the plain ones through the command line, and in the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from petl_bench.main import main
from tests.integration.fixture_run import only_record, run

TASK = "petl_bench.tasks.second_figures"


def asked(*figures: dict[str, object] | str) -> str:
    """The option that asks for some, each a class with its arguments."""
    blocks = [{"class_path": f"{TASK}.{one}"} if isinstance(one, str) else one for one in figures]
    return f"--model.init_args.task.init_args.second_figures={json.dumps(blocks)}"


def with_arguments(name: str, **arguments: object) -> dict[str, object]:
    return {"class_path": f"{TASK}.{name}", "init_args": arguments}


def judgements(root: Path, path: Path) -> Path:
    """Of the test split: the first caption's own video is irrelevant, and all other videos are relevant to it."""
    with (root / "MSRVTT_JSFUSION_test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    pairs = [(first["sentence"], row["video_id"], "irrelevant" if row is first else "relevant") for row in rows]
    annotations = [{"query": query, "video_id": video, "label": label} for query, video, label in pairs]
    path.write_text(json.dumps({"annotations": annotations, "disagreements": []}))
    return path


def test_second_figures_stand_beside_plain_ones_and_change_nothing(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fire = judgements(dataset, tmp_path / "fire.json")
    assert run("fit", "fixture_bitfit", dataset, tmp_path / "runs") == 0
    folder, plain = only_record(tmp_path / "runs")
    assert "second_figures" not in plain["eval"]
    capsys.readouterr()

    adapter = folder / "adapter.safetensors"
    all_of_them = asked("DualSoftmax", "QBNorm", "NDCG", with_arguments("FIRE", file=str(fire)))
    assert main(["test", f"--ckpt_path={adapter}", all_of_them]) == 0
    printed = capsys.readouterr().out
    assert "Dual softmax (T 1)" in printed
    assert "nDCG10" in printed
    _, record = only_record(tmp_path / "runs", "test.json")
    assert {**record["eval"], "cost": 0, "second_figures": 0} == {**plain["eval"], "cost": 0, "second_figures": 0}
    assert record["protocol"] == plain["protocol"]
    assert record["id"]["config_hash"] == plain["id"]["config_hash"]

    found = {item["name"]: item for item in record["eval"]["second_figures"]}
    assert list(found) == ["dual_softmax", "qb_norm", "ndcg", "fire"]
    assert found["dual_softmax"]["settings"]["temperature"] == 1
    assert found["dual_softmax"]["settings"]["logit_scale"] > 1
    assert found["qb_norm"]["settings"]["bank"] > 10
    assert found["qb_norm"]["directions"].keys() == {"t2v"}
    with np.load(folder / "ranks.npz") as ranks:
        expected = np.where(ranks["t2v"] <= 10, 100 / np.log2(1 + ranks["t2v"]), 0).mean()
        first_rank = ranks["t2v"][0]
    assert found["ndcg"]["directions"]["t2v"]["nDCG10"] == pytest.approx(expected)
    assert first_rank >= 1
    queries = record["protocol"]["n_queries"]
    gained = found["fire"]["directions"]["t2v"]["C1"] - record["eval"]["t2v"]["R1"]
    assert gained == pytest.approx(100 / queries if first_rank > 1 else 0)  # whatever comes first is relevant
    assert found["fire"]["settings"]["judged_queries"] >= 1

    assert main(["report", str(tmp_path / "runs"), f"--out={tmp_path / 'report'}"]) == 0
    text = (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "Dual softmax (T 1)" in text
    plain_header, *others = [line for line in text.splitlines() if line.startswith("| Method |")]
    assert "t2v R@1" in plain_header
    assert "| Method | t2v R@1 | t2v R@5 | t2v R@10 | v2t R@1" in "\n".join(others)
    assert "C@10" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_what_cannot_be_calculated_is_refused_before_clips_are_read(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "fire.json"
    other.write_text(json.dumps({"annotations": [{"query": "a", "video_id": "b", "label": "relevant"}]}))
    pointer = tmp_path / "pointer.json"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:db0fff43\nsize 6809410\n")
    for file, code, told in (
        (other, 4, "judges no pair of this test split"),
        (pointer, 4, "Git LFS"),
        (tmp_path / "none.json", 4, "cannot be read"),
    ):
        figures = asked(with_arguments("FIRE", file=str(file)))
        assert run("fit", "fixture_zeroshot", dataset, tmp_path / "runs", figures, "--overwrite=true") == code
        assert told in capsys.readouterr().err
    assert run("fit", "fixture_blip_adaptformer", dataset, tmp_path / "runs", asked("DualSoftmax")) == 2
    assert "DualSoftmax ranks by cosines" in capsys.readouterr().err
