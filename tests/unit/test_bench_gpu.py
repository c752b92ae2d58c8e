"""`benchmarks.gpu` on a CPU: that it runs, says so, and how it calculates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import METHODS, completed, main


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_it_runs_tiny_and_says_so(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "AdaptFormer", "--output", "results"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("no GPU: tiny sizes on the CPU, which shows that this runs, and no more\n")
    (path,) = Path("results").iterdir()
    assert told.splitlines()[-1] == str(path)
    assert path.name.startswith("cpu-")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["card"], found["gpu"], found["torch"]) == ("cpu", False, torch.__version__)
    assert min(found["ceilings"].values()) > 0
    ways = found["methods"]["AdaptFormer"]
    assert [*ways] == ["eager", "fed by the loader", "in chunks", "compiled"]  # graphs are CUDA's
    assert all(way["clips_per_s"] > 0 for way in ways.values())
    # The counter sees the same operations whoever brings the batches, and none where code is compiled.
    counted = {name: way["gflop_per_clip_counted"] for name, way in ways.items()}
    assert counted["fed by the loader"] == pytest.approx(counted["eager"], rel=0.1)
    assert counted["compiled"] is None
    # Three of four chunks are embedded once more, forwards.
    assert 1.1 < counted["in chunks"] / counted["eager"] < 1.5


def test_achieved_over_limit() -> None:
    gflop = METHODS["MV-Adapter"][1]
    eager = completed({"clips_per_s": 468.0, "gflop_per_clip": gflop}, {}, tflops=788)
    assert eager["achieved_over_limit"] == pytest.approx(0.5, abs=1e-3)
    compiled = completed({"clips_per_s": 936.0, "gflop_per_clip": None}, {"eager": eager}, tflops=788)
    assert compiled["achieved_over_limit"] == pytest.approx(1.0, abs=1e-3)
    assert compiled["over_eager"] == 2.0
    after_failure = completed({"clips_per_s": 1.0, "gflop_per_clip": None}, {"eager": {"failed": 1}}, tflops=788)
    assert after_failure["achieved_over_limit"] is after_failure["over_eager"] is None


@pytest.mark.usefixtures("without_gpu")
def test_bad_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--clips", "0"])
    assert stop.value.code == 2
    assert "clips and steps are whole numbers from 1 on, workers from 0 on" in capsys.readouterr().err
