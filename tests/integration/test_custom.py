"""A dataset of one's own on the command line: clips and still images, named as they come."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petl_bench.main import main
from tests.integration.fixture_run import only_record

NAMES = ("a_low/clip1.mp4", "b_high/clip1.mp4", "1000000000.jpg", "deep/still.png")


def fit(root: Path, runs: Path) -> int:
    own = ["--data=data/custom.yaml", f"--data.init_args.root={root}", "--data.init_args.batch_size=2"]
    options = ["--config=fixture_linear", "--model.init_args.backbone=backbone/clip_tiny.yaml", *own]
    return main(["fit", *options, "--data.init_args.num_workers=0", "--trainer.max_epochs=1", f"--runs_dir={runs}"])


@pytest.fixture
def root(dataset: Path, tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for number, name in enumerate((*NAMES, "tested.mp4")):
        path = root / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            shutil.copy(dataset / "videos" / f"video{number}.mp4", path)
        else:
            Image.new("RGB", (80, 60), (90, 10, 200)).save(path)
    (root / "train.csv").write_text("video,caption\n" + "".join(f"{name},a caption\n" for name in NAMES))
    (root / "test.csv").write_text("video,caption\ntested,one\nstill.png,two\n")
    return root


def test_clips_and_stills_are_read_by_the_names_they_have(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(root, tmp_path / "runs") == 4
    assert "1 videos are in the training and in the test split: 'still.png'" in capsys.readouterr().err
    shutil.copy(root / "videos" / "deep" / "still.png", root / "videos" / "other.png")
    (root / "test.csv").write_text("video,caption\ntested,one\nother.png,two\n")
    assert fit(root, tmp_path / "runs") == 0
    folder, record = only_record(tmp_path / "runs")
    assert record["eval"]["t2v"]["n"] == 2
    assert record["protocol"]["n_found"] == 2
    with np.load(folder / "ranks.npz") as ranks:
        assert len(ranks) > 0


def test_a_name_that_may_be_two_files_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train.csv").write_text("video,caption\nclip1,a caption\n1000000000,another\n")
    assert fit(root, tmp_path / "runs") == 4
    told = capsys.readouterr().err
    assert "train split: 'clip1' may be " in told
    assert all(str(root / "videos" / name) in told for name in NAMES[:2])
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("last.ckpt"))
