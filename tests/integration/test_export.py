"""`petl-bench export` and `petl-bench merge`, and the names and times in what `petl-bench predict` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors import safe_open

import petl_bench
from petl_bench.inputs import WHOLE
from petl_bench.main import main
from petl_bench.storage.arrays import read_arrays
from tests.integration.fixture_run import only_record, run


@pytest.fixture(scope="module")
def adapter(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("export") / "runs"
    assert run("fit", "fixture_lora", dataset, runs) == 0
    return only_record(runs)[0]


@pytest.fixture(scope="module")
def videos(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, one of them below, and a file that is none."""
    folder = tmp_path_factory.mktemp("export") / "videos"
    (folder / "below").mkdir(parents=True)
    first, second, third, *_ = sorted((dataset / "videos").iterdir())
    shutil.copy(second, folder / "b\n🎬.mp4")
    shutil.copy(first, folder / "below" / "a.mp4")
    shutil.copy(third, folder / "c.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def exported(*arguments: Any) -> int:
    return main(["export", *map(str, arguments)])


def embeddings(adapter: Path, videos: Path, output: Path, *more: str) -> int:
    what = ("--what=embeddings", "--videos", videos, "--workers=0", "--device=cpu")
    return exported("--adapter", adapter, *what, "--output", output, *more)


def test_both_formats_hold_what_the_model_computes(
    adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embeddings(adapter, videos, tmp_path / "e.npz") == 0
    assert "features of 3 windows of 3 videos, 1 files could not be read" in capsys.readouterr().out
    arrays = read_arrays(tmp_path / "e.npz")
    assert arrays["video"].tolist() == ["b\n🎬.mp4", "below/a.mp4", "c.mp4"]
    model = petl_bench.load(adapter, device="cpu")
    expected = model.encode_video([videos / name for name in arrays["video"]]).numpy()
    np.testing.assert_allclose(arrays["features"], expected, atol=1e-6)
    assert (arrays["start"] == 0).all()
    assert (arrays["end"] > 0).all()
    assert json.loads(str(arrays["about"]))["method"] == "LoRA"
    assert embeddings(adapter, videos, tmp_path / "e.parquet", "--format=parquet") == 0
    table = parquet.read_table(tmp_path / "e.parquet")
    assert np.array_equal(np.array(table["features"].to_pylist(), dtype=np.float32), arrays["features"])
    assert table["video"].to_pylist() == arrays["video"].tolist()
    assert json.loads(table.schema.metadata[b"about"])["backbone"] == "clip-tiny"


def test_windows_in_a_database(adapter: Path, videos: Path, tmp_path: Path) -> None:
    """The same from shards and from LanceDB, window by window."""
    found = []
    for number, index in enumerate(("index", "index.lance")):
        output = tmp_path / f"{number}.npz"
        assert embeddings(adapter, videos, output, "--window=1", f"--index={tmp_path / index}") == 0
        found.append(read_arrays(output))
    shards, database = found
    assert shards.keys() == database.keys()
    assert all(np.array_equal(shards[name], database[name]) for name in shards.keys() - {"about"})
    own = shards["video"] == "c.mp4"
    assert own.sum() > 1
    assert shards["start"][own].tolist() == sorted(shards["start"][own].tolist())


def test_a_file_that_stands_there_is_not_replaced(
    adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.npz").write_text("mine", encoding="utf-8")
    assert embeddings(adapter, videos, tmp_path / "e.npz") == 2
    assert "there is something already" in capsys.readouterr().err
    assert main(["merge", f"--adapter={adapter}", f"--output={tmp_path}"]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert (tmp_path / "e.npz").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--what=model", "--format=npz"), "--what model has no format npz: give torch-export or onnx"),
        (("--what=embeddings",), "--what embeddings takes --videos DIR"),
        (("--what=model", "--videos=x"), "--what model has no use for --videos"),
    ],
)
def test_options_that_do_not_go_together(
    more: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported("--adapter=x", f"--output={tmp_path / 'out'}", *more) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_merged_and_taken_as_a_backbone(
    adapter: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zero-shot on the merged backbone has the figures of the run."""
    assert main(["merge", f"--adapter={adapter}", f"--output={tmp_path / 'merged'}"]) == 0
    assert f"--model.backbone.pretrained {tmp_path / 'merged'}" in capsys.readouterr().out
    weights = f"--model.backbone.pretrained={tmp_path / 'merged'}"
    assert run("test", "fixture_zeroshot", dataset, tmp_path / "runs", weights) == 0
    _, merged = only_record(tmp_path / "runs")
    assert merged["eval"]["t2v"] == json.loads((adapter / "result.json").read_text(encoding="utf-8"))["eval"]["t2v"]


def test_the_towers_of_a_run(adapter: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported("--adapter", adapter, "--what=model", "--output", tmp_path / "towers") == 0
    assert "video: as the model to " in capsys.readouterr().out
    model = petl_bench.load(adapter, device="cpu")
    first = min((dataset / "videos").iterdir())
    clip = model.read(0, first, WHOLE)
    video = torch.export.load(tmp_path / "towers" / "video.pt2").module()
    (found, *_) = video(*(part[None] for part in clip))
    torch.testing.assert_close(
        found, model.encode_video([sorted((dataset / "videos").iterdir())[0]]), atol=1e-5, rtol=0
    )


def test_features_of_a_split_say_what_they_are_of(adapter: Path, dataset: Path) -> None:
    files = []
    for _ in range(2):
        assert main(["predict", f"--ckpt_path={adapter / 'adapter.safetensors'}", "--data.bad_videos=tolerate"]) == 0
        files.append((adapter / "features.safetensors").read_bytes())
    assert files[0] == files[1]
    with safe_open(adapter / "features.safetensors", "pt") as file:
        assert [*file.metadata()] == ["rows"]  # several would be in random order
        told = json.loads(file.metadata()["rows"])
        count = len(file.get_tensor("video")), len(file.get_tensor("text"))
    assert (len(told["clips"]), len(told["captions"])) == count
    first = told["clips"][0]
    assert first == {"video": first["video"], "file": f"videos/{first['video']}.mp4"} | {
        "start": None,
        "end": None,
        "reverse": False,
    }
    assert (dataset / first["file"]).is_file()
