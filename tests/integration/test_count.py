"""Counts through the command line: training, the best epoch, files, report, comparison, prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from petl_bench.fixture import WRITERS
from petl_bench.main import main
from petl_bench.metrics.ranks import figures_of
from petl_bench.runs.record import FILE_NAME
from petl_bench.storage.checkpoints import read_checkpoint
from tests.integration.fixture_run import run


def test_a_run_its_record_and_what_is_made_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, runs = tmp_path / "tgif_qa", tmp_path / "runs"
    WRITERS["tgif_qa"](root, train_videos=16, test_videos=4, size=32, seconds=1)
    stopping = "pytorch_lightning.callbacks.EarlyStopping"
    best = ("--best_on_val=true", "--data.init_args.val_videos=4", "--trainer.max_epochs=2")
    watched = (
        f"--trainer.callbacks+={stopping}",
        "--trainer.callbacks.monitor=val_mse",
        "--trainer.callbacks.mode=max",
    )
    with pytest.warns(UserWarning, match="monitors val_mse with mode max, but less is better there"):
        assert run("fit", "tgif_count_full", root, runs, *best, *watched) == 0
    assert run("fit", "tgif_count_lora", root, runs) == 0
    assert "mean squared error" in capsys.readouterr().out
    folders = sorted(path.parent for path in runs.rglob(FILE_NAME))
    records = [json.loads((folder / FILE_NAME).read_text()) for folder in folders]
    (full,) = [folder for folder in folders if (folder / "best.ckpt").is_file()]
    kept = next(name for name in read_checkpoint(full / "best.ckpt")["callbacks"] if name.startswith("ModelCheckpoint"))
    assert "'monitor': 'val_mse', 'mode': 'min'" in kept
    for folder, record in zip(folders, records, strict=True):
        assert record["protocol"]["metric_version"] == "count-mse/1, predictions 1 to 10, targets from 1"
        with np.load(folder / "ranks.npz") as ranks:
            found = dict(ranks)
        figures = figures_of(found)
        assert {name: record["eval"][name] for name in figures} == figures
        assert set(found["answers"]) <= {"0", "3", "4"}
        expected = [(int(p) - max(int(a), 1)) ** 2 for p, a in zip(found["prediction"], found["answers"], strict=True)]
        assert found["squared_error"].tolist() == expected

    assert main(["predict", f"--ckpt_path={folders[0] / 'adapter.safetensors'}"]) == 0
    counts = json.loads((folders[0] / "counts.json").read_text())
    with np.load(folders[0] / "ranks.npz") as ranks:
        assert counts == dict(zip(ranks["text_id"].tolist(), map(int, ranks["prediction"]), strict=True))

    capsys.readouterr()
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "less is better" in printed
    shown = json.loads((tmp_path / "report" / "report.json").read_text())
    columns = {column["title"]: column["higher_is_better"] for table in shown["tables"] for column in table["columns"]}
    assert (columns["MSE"], columns["MSE raw"]) == (False, False)
    assert main(["compare", *map(str, folders), "--anyway"]) == 0
    printed = capsys.readouterr().out
    assert "counts: counted exactly by both" in printed
    assert "MSE raw" in printed
