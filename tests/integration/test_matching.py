"""Retrieval in two stages through the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from petl_bench.main import main
from tests.integration.fixture_run import only_record, run

SMALL = ("--model.init_args.task.init_args.reranking.k=2", "--model.init_args.task.init_args.queue_size=12")
MEMORY_SAVERS = (
    "--trainer.precision=bf16-mixed",
    "--model.init_args.backbone.init_args.gradient_checkpointing=true",
)


def test_fit_writes_a_complete_run_and_test_reproduces_it(dataset: Path, tmp_path: Path) -> None:
    assert run("fit", "fixture_blip_adaptformer", dataset, tmp_path, *SMALL) == 0
    folder, record = only_record(tmp_path)
    inference = record["protocol"]["inference"]
    assert (inference["rerank_k"], inference["rerank_beta"]) == (2, 1.0)
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert (state["task.queue.video_index"] >= 0).all()  # 4 steps of 8 pairs
    assert state["task.queue.position"].item() == 4 * 8 % 12
    adapter = load_file(folder / "adapter.safetensors")
    assert adapter.keys() == {name for name in state if not name.startswith("task.")}

    assert main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}"]) == 0
    _, again = only_record(tmp_path, "test.json")
    assert again["protocol"]["inference"] == inference
    for direction in ("t2v", "v2t"):
        assert again["eval"][direction] == record["eval"][direction]
    with np.load(folder / "ranks.npz") as first, np.load(folder / "test_ranks.npz") as second:
        assert all(np.array_equal(first[key], second[key]) for key in first)


def test_memory_savers(dataset: Path, tmp_path: Path) -> None:
    assert run("fit", "fixture_blip_uniadapter", dataset, tmp_path, *SMALL, *MEMORY_SAVERS) == 0
    _, record = only_record(tmp_path)
    assert record["protocol"]["inference"]["precision"] == "bf16-mixed"
    assert record["protocol"]["inference"]["rerank_k"] == 2


def test_an_unreadable_video_is_no_candidate(dataset: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(dataset, broken)
    (broken / "videos" / "video17.mp4").unlink()
    more = (*SMALL, "--data.init_args.bad_videos=tolerate")
    assert run("fit", "fixture_blip_adaptformer", broken, tmp_path / "runs", *more) == 0
    folder, record = only_record(tmp_path / "runs")
    assert record["protocol"]["n_gallery"] == 4
    with np.load(folder / "ranks.npz") as ranks:
        assert ranks["t2v"][1] == ranks["v2t"][1] == 4


@pytest.mark.parametrize("command", ["params", "profile"])
def test_what_it_costs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, "--config=fixture_blip_adaptformer", *(["--steps=1"] if command == "profile" else [])]) == 0
    assert "AdaptFormer" in capsys.readouterr().out


def test_clip_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("fit", "fixture_adaptformer", dataset, tmp_path, "--model.init_args.task=task/matching_fixture.yaml") == 2
    )
    assert "text reads video" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
