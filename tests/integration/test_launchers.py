"""What another job has left in the environment changes nothing of a run, whatever the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from petl_bench.main import main
from tests.integration.fixture_run import only_record, run

LEFT_OVER = {"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "1", "NODE_RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def _left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning finds it when it is imported


def test_whoever_trains_writes(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path) == 0
    folder, record = only_record(tmp_path)
    assert record["train"]["world_size"] == 1
    assert {"config.yaml", "adapter.safetensors", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    assert "record: " in capfd.readouterr().out
    assert "no launcher started this process: RANK=1, LOCAL_RANK=1, SLURM_PROCID=1, WORLD_SIZE=2 in" in caplog.text
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert main(["test", adapter]) == 0
    assert only_record(tmp_path, "test.json")[1]["kind"] == "test"
    assert main(["validate", adapter, "--data.init_args.val_videos=4"]) == 0
    assert "t2v" in capfd.readouterr().out
    assert main(["predict", adapter]) == 0
    assert list(folder.glob("features.*"))


def test_whoever_writes_takes_the_lock(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", "fixture_zeroshot", dataset, tmp_path) == 0
    folder, _ = only_record(tmp_path)
    code = (
        "import pathlib, sys; from petl_bench.runs.folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline()
        assert run("test", "fixture_zeroshot", dataset, tmp_path, "--overwrite=true") == 2
        other.communicate(b"\n")
    assert "another process is at work" in capsys.readouterr().err
