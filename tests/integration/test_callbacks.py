"""Lightning's freedoms: what is allowed keeps record, adapter, continued runs and config.yaml; the rest is refused."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import LightningModule, Trainer

from petl_bench.main import main
from petl_bench.method import Method
from petl_bench.runs import freedoms
from petl_bench.runs.course import EarlyEnds
from tests.integration.fixture_run import only_record, run
from tests.integration.test_resume import killed, outcome
from tests.stops import trap

FIT = ("--trainer.log_every_n_steps=1", "--save_every_n_steps=1")
HELD_OUT = ("--data.init_args.val_videos=4", "--data.init_args.batch_size=4")


def callback(name: str, **arguments: Any) -> tuple[str, ...]:
    return (f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{key}={value}" for key, value in arguments.items()))


#: every class of the allow-list that needs no package that may be missing, and what belongs to it
ALLOWED = {
    "watchers": (
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=true",
        *callback("RichProgressBar"),
        *callback("LearningRateMonitor"),
        *callback("DeviceStatsMonitor", cpu_stats="false"),
        *callback("RichModelSummary"),
        *callback("Timer", duration="00:01:00:00"),
        *callback("ModelCheckpoint", save_last="true", every_n_train_steps="1"),
        "--trainer.profiler=SimpleProfiler",
        "--trainer.plugins+=lightning_fabric.plugins.environments.LightningEnvironment",
    ),
    "early stopping": (
        *HELD_OUT,
        "--trainer.max_epochs=3",
        "--trainer.enable_progress_bar=true",
        *callback("TQDMProgressBar"),
        *callback("ModelSummary"),
        *callback("EarlyStopping", monitor="val_rsum", mode="max", patience="1", min_delta="1000"),  # nothing is better
        *callback("ModelCheckpoint", monitor="val_rsum", mode="max"),
        "--trainer.profiler=AdvancedProfiler",
    ),
}
# One batch later than the checkpoint: the row of a step is written after the step was saved.
MOMENTS = {"in an epoch": (Method, "on_train_batch_start", 8), "before the test": (Method, "on_test_epoch_start", 1)}


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of runs with one that nothing happened to."""
    found: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in found:
            runs = tmp_path_factory.mktemp("whole")
            assert run("fit", "fixture_linear", dataset, runs, *FIT, *ALLOWED[name]) == 0
            found[name] = runs
        return found[name]

    return get


def assert_same(runs: Path, expected: Path) -> None:
    weights, ranks, losses = outcome(runs)
    expected_weights, expected_ranks, expected_losses = outcome(expected)
    assert losses == expected_losses
    assert weights.keys() == expected_weights.keys()
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected_weights.items())
    assert all(np.array_equal(ranks[name], tensor) for name, tensor in expected_ranks.items())


def test_every_allowed_callback_is_tested() -> None:
    tried = " ".join(option for options in ALLOWED.values() for option in options)
    for kind in freedoms.ALLOWED["callbacks"]:
        assert f"--trainer.callbacks+={kind.__name__} " in tried


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_continued(
    name: str, moment: str, dataset: Path, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    arguments = ("fit", "fixture_linear", dataset, tmp_path, *FIT, *ALLOWED[name])
    assert killed(arguments, trap(*MOMENTS[moment])) == -signal.SIGKILL
    assert run(*arguments) == 0
    assert_same(tmp_path, whole(name))
    record, expected = only_record(tmp_path)[1]["train"], only_record(whole(name))[1]["train"]
    assert (record["resumed"], record["limits"], record["steps"]) == (1, expected["limits"], expected["steps"])


@pytest.mark.parametrize("name", ALLOWED)
def test_adapter_and_configuration_give_the_same_again(name: str, tmp_path: Path, whole: Callable[[str], Path]) -> None:
    folder, record = only_record(whole(name))
    assert main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}"]) == 0
    assert only_record(whole(name), "test.json")[1]["eval"]["t2v"] == record["eval"]["t2v"]
    assert main(["fit", f"--config={folder / 'config.yaml'}", f"--runs_dir={tmp_path}"]) == 0
    assert only_record(tmp_path)[0].relative_to(tmp_path) == folder.relative_to(whole(name))
    assert_same(tmp_path, whole(name))


def test_a_stop_is_in_the_record_and_in_the_report(tmp_path: Path, whole: Callable[[str], Path]) -> None:
    train = only_record(whole("early stopping"))[1]["train"]
    assert train["steps"] == 12
    assert train["limits"] == {"EarlyStopping on val_rsum": "at step 12 of 18"}
    assert only_record(whole("watchers"))[1]["train"]["limits"] == {}
    assert main(["report", str(whole("early stopping")), f"--output={tmp_path}"]) == 0
    assert "EarlyStopping on val\\_rsum at step 12 of 18" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


def test_a_logger_of_the_user_s_stands_beside_the_run_s_own(dataset: Path, tmp_path: Path) -> None:
    logger = ("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'mine'}")
    more = ("--trainer.log_every_n_steps=1", "--trainer.profiler=PassThroughProfiler")
    assert run("fit", "fixture_linear", dataset, tmp_path / "runs", *more, *logger) == 0
    folder, _ = only_record(tmp_path / "runs")
    (mine,) = (tmp_path / "mine").rglob("metrics.csv")
    assert mine.read_text(encoding="utf-8") == (folder / "metrics.csv").read_text(encoding="utf-8")
    assert main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}"]) == 0
    assert list((tmp_path / "mine").rglob("metrics.csv")) == [mine], "an evaluation writes no log"


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = [
    (callback("EarlyStopping", monitor="nope"), "EarlyStopping monitors nope, which is not logged: use one of"),
    (callback("EarlyStopping", monitor="val_rsum"), "monitors val_rsum, which is not logged"),
    (callback("LearningRateFinder"), "LearningRateFinder is not allowed: set model.init_args.optimizer"),
    (callback("BackboneFinetuning"), "BackboneFinetuning is not allowed"),
    (callback("ModelPruning"), "ModelPruning is not allowed: it changes frozen weights"),
    (callback("GradientAccumulationScheduler", scheduling="{0: 2}"), "GradientAccumulationScheduler is not allowed"),
    (callback("StochasticWeightAveraging", swa_lrs="0.1"), "StochasticWeightAveraging is not allowed"),
    (callback("pytorch_lightning.cli.SaveConfigCallback"), "SaveConfigCallback is not among those"),
    (("--trainer.callbacks=DeviceStatsMonitor",), "DeviceStatsMonitor needs psutil, which is not installed"),
    (("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=x"), "TensorBoardLogger needs tensorboard"),
    (("--trainer.logger=WandbLogger",), "WandbLogger needs wandb, which is not installed: pip install wandb"),
    (("--trainer.logger=MLFlowLogger",), "MLFlowLogger is not among those"),
    (("--trainer.plugins=MixedPrecision",), "MixedPrecision is not allowed: set trainer.precision"),
    (("--trainer.strategy=pytorch_lightning.strategies.FSDPStrategy",), "trainer.strategy"),
    (("--trainer.val_check_interval=1000",), "val_check_interval is 1000, but an epoch has 4 batches"),
    (("--trainer.accumulate_grad_batches=2",), "trainer.accumulate_grad_batches: retrieval compares"),
    (("--trainer.devices=-1",), "trainer.devices is -1: a CPU takes a number of processes"),
    (("--trainer.devices=0,1",), "trainer.devices is 0,1"),
    (("--trainer.devices=3",), "data.batch_size 8 is global and must be a multiple of 3 processes"),
    (("--data.init_args.batch_size=1",), "data.batch_size is 1: retrieval learns from the other samples"),
    (("--data.init_args.batch_size=100",), "data.batch_size 100 exceeds the 32 rows"),
    (("--seed_everything=-1",), "seed_everything: expected a whole number from 0 to 4294967295, got -1"),
    (("--seed_everything=4294967296",), "seed_everything: expected"),
    (("--save_every_n_steps=0",), "save_every_n_steps: expected"),
    (("--weights_only=false",), "weights_only is False: leave it out"),
    (("--best_on_val=true",), "has no validation split; set data.val_videos"),
    (
        ("--best_on_val=true", *HELD_OUT, "--trainer.check_val_every_n_epoch=7"),
        "best_on_val is true, but validation never runs",
    ),
    (("--best_on_val=true", *HELD_OUT, "--trainer.limit_val_batches=0"), "best_on_val is true, but validation never"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused_in_one_line_before_the_run_has_a_folder(
    options: tuple[str, ...],
    told: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(freedoms, "find_spec", lambda package: None)
    assert run("fit", "fixture_linear", dataset, tmp_path, *options) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("petl-bench"))
    assert line.startswith("petl-bench: error: ")
    assert told in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["fit", "test"])
def test_inside_a_job_of_several_tasks(
    command: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert run(command, "fixture_zeroshot", dataset, tmp_path) == 2
    assert "put `srun` before petl-bench" in capsys.readouterr().err
    assert run("params", "fixture_linear", dataset, tmp_path) == 0, "a look at a configuration needs one process only"


def test_a_job_of_one_task(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of SLURM's variables only the one that Lightning looks at may be there."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert run("test", "fixture_zeroshot", dataset, tmp_path) == 0


def test_a_training_split_of_one_video(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, video, count in (("train", "video0", 4), ("test", "video16", 1)):
        rows = "".join(f"{video}.mp4,a red circle {number}\n" for number in range(count))
        (tmp_path / f"{split}.csv").write_text(f"video,caption\n{rows}", encoding="utf-8")
    (tmp_path / "videos").symlink_to(dataset / "videos")
    custom = ("--data=data/custom.yaml", f"--data.init_args.root={tmp_path}", "--data.init_args.batch_size=2")
    assert run("fit", "fixture_linear", tmp_path, tmp_path / "runs", *custom) == 2
    assert "the training split has 1 video: retrieval learns from differences" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_classifier_of_one_answer(
    written: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.txt"
    answers.write_text("red\n", encoding="utf-8")
    more = (f"--model.init_args.task.init_args.answer_list={answers}",)
    assert run("fit", "fixtureqa_full", written("msrvtt_qa"), tmp_path / "runs", *more) == 2
    assert "task.answer_list gives 1 answer" in capsys.readouterr().err


def test_a_foreign_checkpoint_to_go_on_from(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "global_step": 3}, tmp_path / "foreign.ckpt")
    runs = tmp_path / "runs"
    assert run("fit", "fixture_linear", dataset, runs, f"--ckpt_path={tmp_path / 'foreign.ckpt'}") == 5
    assert "trained with method None" in capsys.readouterr().err
    for word in ("last", "best", "hpc", "registry"):  # of Lightning's, and nothing here
        assert run("fit", "fixture_linear", dataset, runs, f"--ckpt_path={word}") == 5
        assert f"cannot read the checkpoint {word}" in capsys.readouterr().err
    assert not runs.exists()


def test_a_time_that_is_over_before_the_first_validation(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--best_on_val=true", *HELD_OUT, "--trainer.max_time=00:00:00:00")
    assert run("fit", "fixture_linear", dataset, tmp_path, *more) == 2
    assert "training ended before validation ran for the first time (see trainer.max_time)" in capsys.readouterr().err
    assert list(tmp_path.rglob("adapter.safetensors"))


# --- a user's own callbacks, and what is logged -------------------------------------------------------------------

OWN = '''
"""A callback of a user."""

from pytorch_lightning import Callback


class Halves(Callback):
    """Ends training in the middle."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= 2
'''


def test_a_user_s_own_callback_is_named_in_record_and_report(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch_callback.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    own = ("--trainer.callbacks+=scratch_callback.Halves",)
    assert run("fit", "fixture_linear", dataset, tmp_path / "runs", *own) == 2, "it needs --plugins"
    assert run("fit", "fixture_linear", dataset, tmp_path / "runs", *own, "--plugins=scratch_callback") == 0
    sys.modules.pop("scratch_callback", None)
    train = only_record(tmp_path / "runs")[1]["train"]
    assert train["callbacks"] == ["scratch_callback.Halves"]
    assert train["limits"] == {"stopped": "at step 2 of 4"}
    assert main(["report", str(tmp_path / "runs"), f"--output={tmp_path / 'report'}"]) == 0
    board = (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "stopped at step 2 of 4" in board
    assert "callback scratch\\_callback.Halves" in board


@pytest.mark.parametrize(
    ("config", "layout", "more"),
    [
        ("fixture_linear", "msrvtt", HELD_OUT),
        (
            "fixture_blip_uniadapter",
            "msrvtt",
            (
                *HELD_OUT,
                "--model.init_args.task.init_args.queue_size=16",
            ),
        ),
        ("fixtureqa_full", "msrvtt_qa", ()),
        ("fixtureqa_blip_adaptformer", "msrvtt_qa", ()),
    ],
)
def test_tasks_log_what_they_say(
    config: str,
    layout: str,
    more: tuple[str, ...],
    written: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Callbacks that wait for a value are held to these names."""
    logged: list[str] = []

    def listen(self: EarlyEnds, trainer: Trainer, pl_module: LightningModule) -> None:
        logged.extend(trainer.callback_metrics)

    monkeypatch.setattr(EarlyEnds, "on_fit_end", listen)
    root = written(layout)
    assert run("fit", config, root, tmp_path, "--trainer.log_every_n_steps=1", *more) == 0
    capsys.readouterr()
    nowhere = (*more, *callback("EarlyStopping", monitor="nowhere"))
    assert run("fit", config, root, tmp_path, *nowhere) == 2
    told = capsys.readouterr().err.rpartition("use one of ")[2].strip()
    assert sorted(logged) == sorted(told.split(", "))


def test_an_allowed_callback_is_in_the_configuration_of_the_run(whole: Callable[[str], Path]) -> None:
    folder, _ = only_record(whole("watchers"))
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    names = [item["class_path"].rsplit(".", 1)[-1] for item in yaml.safe_load(text)["trainer"]["callbacks"]]
    assert {"RichProgressBar", "Timer", "ModelCheckpoint"} <= set(names)
