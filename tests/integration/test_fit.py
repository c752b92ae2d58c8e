"""The main job: fit, reload, repeat, report."""

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import petl_bench.runs.draft
from petl_bench.main import main
from petl_bench.method import Method
from petl_bench.storage.files import FileError
from tests.integration.fixture_run import only_record, run


def test_fit_writes_a_complete_run_and_test_reproduces_it(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "fixture_adaptformer", dataset, tmp_path) == 0
    folder, record = only_record(tmp_path)
    expected = {"adapter.safetensors", "config.yaml", "last.ckpt", "metrics.csv", "ranks.npz", "result.json"}
    expected.add("last.ckpt.sha256")
    assert {path.name for path in folder.iterdir()} == expected
    assert record["status"] == "complete"
    assert record["origin"] == "fixture"
    assert record["protocol"]["n_queries"] == record["protocol"]["n_gallery"] == 4
    # 4 vision blocks of width 96 and 4 text blocks of width 64, bottleneck 64: 2 D b + b + D each
    assert record["model"]["trainable_params"] == 4 * (2 * 96 * 64 + 64 + 96) + 4 * (2 * 64 * 64 + 64 + 64)
    assert record["model"]["adapter_bytes"] < 4 * record["model"]["trainable_params"] + 10_000
    assert record["train"]["steps"] == 4  # 16 videos x 2 captions in batches of 8

    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert main(["test", adapter]) == 0
    _, again = only_record(tmp_path, "test.json")
    assert again["eval"]["t2v"] == record["eval"]["t2v"]
    assert again["eval"]["v2t"] == record["eval"]["v2t"]
    with np.load(folder / "ranks.npz") as first, np.load(folder / "test_ranks.npz") as second:
        assert all(np.array_equal(first[key], second[key]) for key in first)

    assert main(["validate", adapter, "--data.init_args.val_videos=4"]) == 0
    assert main(["predict", adapter]) == 0
    assert {name: (folder / name).read_bytes() for name in written} == written

    capsys.readouterr()
    assert main(["report", str(tmp_path), f"--output={tmp_path / 'report'}"]) == 0
    assert "AdaptFormer" in (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "AdaptFormer" in capsys.readouterr().out


def test_the_same_command_gives_the_same_result(dataset: Path, tmp_path: Path) -> None:
    states, ranks = [], []
    for place in ("first", "second"):
        assert run("fit", "fixture_adaptformer", dataset, tmp_path / place) == 0
        folder, _ = only_record(tmp_path / place)
        states.append(load_file(folder / "adapter.safetensors"))
        with np.load(folder / "ranks.npz") as file:
            ranks.append(dict(file))
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert all(np.array_equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


def test_what_is_not_the_recipe_is_told(dataset: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert run("fit", "fixture_adaptformer", dataset, tmp_path, "--trainer.limit_train_batches=2") == 0
    folder, record = only_record(tmp_path)
    assert record["train"]["limits"] == {"limit_train_batches": "2"}
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    recwarn.clear()
    assert main(["test", adapter, "--model.init_args.scale=4"]) == 0
    assert [str(w.message) for w in recwarn if "was trained with scale 1.0, and is used with 4" in str(w.message)]


def test_training_lowers_the_loss(dataset: Path, tmp_path: Path) -> None:
    more = ("--trainer.max_epochs=8", "--trainer.log_every_n_steps=1", "--model.init_args.optimizer.init_args.lr=2e-3")
    assert run("fit", "fixture_full", dataset, tmp_path, *more) == 0
    folder, _ = only_record(tmp_path)
    lines = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("loss")
    losses = [float(value) for line in lines[1:] if (value := line.split(",")[place])]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_an_adapter_alone_is_tested(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the configuration that lay beside it; with a damaged one; and where its record cannot be written."""
    assert run("fit", "fixture_linear", dataset, tmp_path / "runs") == 0
    folder, record = only_record(tmp_path / "runs")
    alone = tmp_path / "alone"
    alone.mkdir()
    adapter = Path(shutil.copy(folder / "adapter.safetensors", alone))
    arguments = ("test", "fixture_linear", dataset, tmp_path / "runs", f"--ckpt_path={adapter}")
    assert main(["test", f"--ckpt_path={adapter}"]) == 5
    assert "no config.yaml beside" in capsys.readouterr().err
    assert run(*arguments) == 0
    _, again = only_record(alone, "test.json")
    assert again["eval"]["t2v"] == record["eval"]["t2v"]
    assert again["integrity"]["config_sha256"] is None
    assert again["integrity"]["adapter_sha256"] == record["integrity"]["adapter_sha256"]
    assert again["id"] == record["id"]  # the same measurement

    for text in ("{bad", "[1, 2]", "model: 3"):
        (alone / "config.yaml").write_text(text, encoding="utf-8")
        with pytest.warns(UserWarning, match=r"config\.yaml cannot be read"):
            assert run(*arguments) == 0

    (alone / "test.json").unlink()
    (alone / "test.json").mkdir()
    assert run(*arguments) == 5
    assert "test.json, which is a folder" in capsys.readouterr().err


def test_figures_are_not_lost_for_a_file(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that lies beside an evaluation goes while it runs, and packages cannot say their version."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    manifest = copy / "manifest.jsonl"
    assert main(["data", "verify", "--config=data/fixture.yaml", f"--data.init_args.root={copy}"]) == 0
    original = Method.on_test_epoch_end

    def late(self: Method) -> None:
        original(self)
        for path in (*copy.glob("*.csv"), *copy.glob("*.json"), manifest, *tmp_path.rglob("config.yaml")):
            path.unlink()

    def unknown(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(Method, "on_test_epoch_end", late)
    monkeypatch.setattr(importlib.metadata, "version", unknown)
    options = (f"--data.init_args.manifest={manifest}",)
    assert run("test", "fixture_zeroshot", copy, tmp_path / "runs", *options) == 0
    _, record = only_record(tmp_path / "runs")
    assert record["env"]["versions"]["torch"] is None
    assert len(record["env"]["manifest_sha256"]) == 64
    assert len(record["integrity"]["config_sha256"]) == 64
    assert not manifest.exists()
    assert "t2v" in capsys.readouterr().out


def test_figures_are_printed_where_they_cannot_be_written(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = petl_bench.runs.draft.write_result

    def full(path: Path, record: dict[str, Any]) -> None:
        if path.name == "result.json":
            raise FileError(path, "cannot be written: No space left on device")
        write(path, record)

    monkeypatch.setattr(petl_bench.runs.draft, "write_result", full)
    assert run("test", "fixture_zeroshot", dataset, tmp_path) == 5
    printed = capsys.readouterr()
    assert "t2v" in printed.out
    assert "No space left" in printed.err


def test_predict_of_a_method_without_training(dataset: Path, tmp_path: Path) -> None:
    assert run("predict", "fixture_zeroshot", dataset, tmp_path) == 0
    (features,) = tmp_path.rglob("features.safetensors")
    assert load_file(features)["video"].shape == (4, 64)


def test_predict_on_two_processes_is_refused_at_once(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ("--trainer.devices=2", "--trainer.strategy=ddp")
    assert run("predict", "fixture_zeroshot", dataset, tmp_path, *two) == 2
    assert "--trainer.devices 1" in capsys.readouterr().err


def test_zero_shot_has_nothing_to_train(dataset: Path, tmp_path: Path) -> None:
    assert run("test", "fixture_zeroshot", dataset, tmp_path) == 0
    folder, record = only_record(tmp_path)
    assert record["model"]["trainable_params"] == 0
    assert record["train"] is None
    assert not (folder / "adapter.safetensors").exists()


def test_a_complete_run_is_not_overwritten_unasked(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test", "fixture_zeroshot", dataset, tmp_path) == 0
    folder, _ = only_record(tmp_path)
    assert run("test", "fixture_zeroshot", dataset, tmp_path) == 2
    assert "complete" in capsys.readouterr().err
    assert run("test", "fixture_zeroshot", dataset, tmp_path, "--overwrite=true") == 0
    assert (folder.with_name(folder.name + ".replaced1") / "result.json").is_file()


def test_best_on_val_reports_a_held_out_choice(dataset: Path, tmp_path: Path) -> None:
    more = ("--best_on_val=true", "--data.init_args.val_videos=4", "--trainer.max_epochs=2")
    assert run("fit", "fixture_adaptformer", dataset, tmp_path, *more) == 0
    folder, record = only_record(tmp_path)
    assert record["protocol"]["selection"] == "best-val"
    assert (folder / "best.ckpt").is_file()


def test_validate_and_predict(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path) == 0
    folder, _ = only_record(tmp_path)
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert main(["validate", adapter, "--data.init_args.val_videos=4"]) == 0
    assert "t2v" in capsys.readouterr().out
    assert main(["predict", adapter]) == 0
    features = load_file(folder / "features.safetensors")
    assert features["video"].shape == (4, 64)
    assert features["text"].shape == (4, 64)


def test_an_unreadable_video_is_tolerated_only_when_asked(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(dataset, broken)
    (broken / "videos" / "video16.mp4").write_bytes(b"not a video")
    (broken / "videos" / "video17.mp4").unlink()
    assert run("test", "fixture_zeroshot", broken, tmp_path / "runs") == 4
    assert "video17" in capsys.readouterr().err
    assert run("test", "fixture_zeroshot", broken, tmp_path / "runs", "--data.init_args.bad_videos=tolerate") == 0
    folder, record = only_record(tmp_path / "runs")
    assert record["protocol"]["partial"] is True
    assert record["protocol"]["n_gallery"] == 4  # never shrunk
    with np.load(folder / "ranks.npz") as ranks:
        assert ranks["t2v"][:2].tolist() == [4, 4]  # a failed video ranks last
        assert ranks["v2t_hits"][:2].tolist() == [[-1, -1, -1]] * 2
        assert set(ranks["t2v_hits"].ravel().tolist()) == {2, 3, -1}
        assert ranks["video_id"].tolist() == ["video16", "video17", "video18", "video19"]
