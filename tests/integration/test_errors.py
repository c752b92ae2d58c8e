"""What a user gets wrong: one clear line and its exit code."""

import shutil
from pathlib import Path

import pytest

from petl_bench.main import main
from tests.integration.fixture_run import run

WRONG = [
    (["fti"], 2, "did you mean fit"),
    (["fit"], 2, "add --config"),
    (["fit", "--config", "fixture_adaptfromer"], 2, "fixture_adaptformer.yaml"),
    (["fit", "--config", "fixture_full", "--model.init_args.botleneck_dim", "3"], 2, "botleneck_dim"),
    (
        ["fit", "--config", "fixture_adaptformer", "--model.init_args.bottleneck_dim", "wide"],
        2,
        "model.init_args.bottleneck_dim: expected a whole number from 1 to 65536, got wide",
    ),
    (["fit", "--config", "fixture_adaptformer", "--model", "AdaptFormr"], 2, "did you mean 'AdaptFormer'"),
    (["fit", "--config", "fixture_adaptformer", "--model.init_args.mode", "both"], 2, "parallel"),
    (["fit", "--config", "fixture_adaptformer", "--trainer.max_epoch", "3"], 2, "max_epochs"),
    (["fit", "--config", "fixture_adaptformer", "--model", "evil.module.Class"], 2, "--plugins evil"),
    (["fit", "--config", "fixture_adaptformer", "--data.init_args.batch_size", "0"], 2, "batch_size: expected"),
    (["fit", "--config", "fixture_adaptformer", "--data.init_args.sampling", "middle"], 2, "uniform"),
    (["fit", "--config", "fixture_adaptformer", "--model.init_args.optimizer.init_args.lr", "-1"], 2, "lr: expected"),
    (["fit", "--config", "fixture_adaptformer", "--data.init_args.root", "/nowhere"], 4, "/nowhere"),
    (["test", "--config", "fixture_adaptformer"], 2, "--ckpt_path"),
    (["test", "--config", "fixture_adaptformer", "--ckpt_path", "/nowhere/adapter.safetensors"], 5, "/nowhere"),
    (["test", "--ckpt_path", "/nowhere/adapter.safetensors"], 5, "no adapter file"),
    (["test", "--ckpt_path", "."], 5, "is a folder"),
    (["fit", "--config", "fixture_adaptformer", "--trainer.limit_test_batches", "2"], 2, "count every sample"),
    (["fit", "--config", "fixture_adaptformer", "--trainer.check_val_every_n_epoch", "0"], 2, "from 1"),
    (["fit", "--config", "fixture_adaptformer", "--zero_shot", "true"], 2, "fit trains"),
    (["fit", "--config", "fixture_adaptformer", "--data.init_args.max_words", "0"], 2, "max_words: expected"),
    (
        ["fit", "--config", "fixtureqa_adaptformer", "--data.init_args.root", "/nowhere"],
        4,
        "data.root /nowhere is no folder: no train questions in /nowhere",
    ),
    (["list", "methods", "--plugins", "no_such_package"], 2, "no module 'no_such_package'"),
    (["list", "datamodules", "--plugins", "no_such_package"], 2, "no module 'no_such_package'"),
    (["list", "matrix", "--plugins", "no_such_package"], 2, "no module 'no_such_package'"),
    (["list", "configs", "--plugins", "no_such_package"], 2, "no module 'no_such_package'"),
    (["list", "backbones", "--plugins", "no_such_package"], 2, "no module 'no_such_package'"),
    (["report", "runs", "--plugins", "json"], 2, "no option --plugins"),
    (["--plugins=json", "fixture", "folder"], 2, "no option --plugins"),
    (["list", "methods", "--plugins", "./methods/mine.py"], 2, "give the name of a module"),
    (["list", "methods", "--plugins", "this_is_broken.at_all"], 2, "this_is_broken"),
    (["fit", "--config", "fixture_full", "--plugins", "no_such_package"], 2, "no_such_package"),
    (["fit", "--config", "fixture_full", "--seed_everything", "true"], 2, "seed"),
]


@pytest.mark.parametrize(("arguments", "code", "told"), WRONG, ids=lambda value: str(value)[-60:])
def test_wrong_input(
    arguments: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] in ("fit", "test"):
        configs = {"fixture_adaptformer", "fixtureqa_adaptformer"} & set(arguments)
        tiny = ["--model.init_args.backbone=backbone/clip_tiny.yaml"] if configs else []
        arguments = [*arguments, *tiny, f"--runs_dir={tmp_path}"]
    assert main(arguments) == code
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
    assert errors.count("petl-bench: error:") == (code != 0)


@pytest.mark.parametrize(
    "option",
    [
        "--trainer.devices=0",
        "--trainer.barebones=true",
        "--trainer.profiler=foo",
        "--trainer.enable_checkpointing=false",
    ],
)
def test_what_the_trainer_refuses(
    option: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = ("--best_on_val=true", "--data.init_args.val_videos=4")
    assert run("fit", "fixture_linear", dataset, tmp_path, *best, option) == 2
    assert "petl-bench: error:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_an_empty_split_ends_before_training(
    name: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, video in (("train.csv", "video0"), ("test.csv", "video16")):
        row = "" if split == name else f"{video}.mp4,a red circle\n"
        (tmp_path / split).write_text(f"video,caption\n{row}", encoding="utf-8")
    (tmp_path / "videos").symlink_to(dataset / "videos")
    custom = ("--data=data/custom.yaml", f"--data.init_args.root={tmp_path}", "--data.init_args.batch_size=1")
    assert run("fit", "fixture_linear", tmp_path, tmp_path / "runs", *custom) == 4
    assert name in capsys.readouterr().err
    assert not list(tmp_path.rglob("adapter.safetensors"))


def test_a_complete_run_on_other_data(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    assert run("test", "fixture_zeroshot", copy, tmp_path / "runs") == 0
    path = copy / "MSRVTT_data.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run("test", "fixture_zeroshot", copy, tmp_path / "runs") == 0
    assert len(list((tmp_path / "runs").rglob("result.json"))) == 2, "other content is another run"


def test_a_cut_annotation_file(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    path = copy / "MSRVTT_JSFUSION_test.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b",video") + 3])  # in the middle of the last record
    assert run("test", "fixture_zeroshot", copy, tmp_path / "runs") == 4
    assert "MSRVTT_JSFUSION_test.csv, line" in capsys.readouterr().err


def test_counts_are_asserted_unless_partial(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path, "--data.init_args.partial=false") == 4
    assert "expected 9000" in capsys.readouterr().err


def test_a_missing_video_is_named(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "videos" / "video3.mp4").unlink()
    assert run("fit", "fixture_linear", copy, tmp_path / "runs") == 4
    assert "video3" in capsys.readouterr().err


def test_a_broken_video_met_in_a_worker_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "videos" / "video3.mp4").write_bytes(b"")
    assert run("fit", "fixture_linear", copy, tmp_path / "runs", "--data.init_args.num_workers=1") == 4
    errors = capsys.readouterr().err
    assert "video3.mp4" in errors
    assert "Traceback" not in errors


def test_another_method_s_adapter_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path) == 0
    (adapter,) = tmp_path.rglob("adapter.safetensors")
    assert run("test", "fixture_adaptformer", dataset, tmp_path, f"--ckpt_path={adapter}") == 5
    assert "methods.linear.Linear" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_with_3(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--model.init_args.optimizer.init_args.lr=1e30", "--trainer.max_epochs=3")
    assert run("fit", "fixture_full", dataset, tmp_path, *more) == 3
    assert "training videos" in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))
