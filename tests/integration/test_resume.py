"""A run that is killed goes on as if nothing had happened: the same losses, the same weights to the last bit."""

from __future__ import annotations

import csv
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from petl_bench.data.datasets import ClipLoader
from petl_bench.errors import CheckpointError
from petl_bench.fixture import write_fixture
from petl_bench.machine.signals import ASKED
from petl_bench.method import Method
from petl_bench.runs.folder import locked
from petl_bench.storage.checkpoints import ResumePoints, SafeCheckpointIO
from tests.integration.fixture_run import only_record, run
from tests.stops import group_trap, in_child, trap

EPOCHS, STEPS = 3, 4  # 8 videos x 2 captions in batches of 4
MORE = (
    *(f"--trainer.max_epochs={EPOCHS}", "--trainer.log_every_n_steps=1"),
    *("--data.init_args.frames=3", "--data.init_args.batch_size=4"),
)
UNIADAPTER = ("--model.init_args.task.init_args.queue_size=16", "--model.init_args.task.init_args.reranking.k=2")
EACH_STEP = "--save_every_n_steps=1"
CONFIGS = {
    "fixture_adaptformer": (),
    "fixture_blip_uniadapter": UNIADAPTER,  # with queue and momentum encoder
    "fixture_lora": (
        *("--data.init_args.num_workers=2", "--data.init_args.augmentation=rand-m7-n4-mstd0.5-inc1"),
        *("--best_on_val=true", "--data.init_args.val_videos=2"),
    ),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of what other tests have."""
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=4, captions_per_video=2)
    return folder


def killed(arguments: tuple[Any, ...], prepare: Callable[[], None]) -> int:
    """Exit code of a run in a process of its own, in which `prepare` laid a trap; negative for a signal."""
    return in_child(lambda: run(*arguments), prepare)


def outcome(runs: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
    folder, _ = only_record(runs)
    with np.load(folder / "ranks.npz") as ranks, (folder / "metrics.csv").open(newline="") as file:
        losses = [row["loss"] for row in csv.DictReader(file) if row["loss"]]
        return {n: t.numpy() for n, t in load_file(folder / "adapter.safetensors").items()}, dict(ranks), losses


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    found: dict[str, Any] = {}

    def get(config: str) -> Any:
        if config not in found:
            runs = tmp_path_factory.mktemp("whole")
            assert run("fit", config, dataset, runs, *MORE, *CONFIGS[config]) == 0
            found[config] = outcome(runs)
        return found[config]

    return get


TRAPS = {
    "in the first epoch": (Method, "on_train_batch_end", 2),
    "in the middle of an epoch": (Method, "on_train_batch_end", STEPS + 2),
    "at the last batch of an epoch": (Method, "on_train_batch_end", 2 * STEPS),
    "before saving": (Method, "on_save_checkpoint", 2),
    "after saving": (SafeCheckpointIO, "save_checkpoint", 2),
    "before the test": (Method, "on_test_epoch_start", 1),
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("moment", TRAPS)
def test_killed_and_resumed(
    config: str, moment: str, dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any]
) -> None:
    arguments = ("fit", config, dataset, tmp_path, *MORE, *CONFIGS[config])
    assert killed(arguments, trap(*TRAPS[moment])) == -signal.SIGKILL
    assert not list(tmp_path.rglob("result.json"))
    had_saved = bool(list(tmp_path.rglob("last.ckpt")))
    assert run(*arguments) == 0
    assert only_record(tmp_path)[1]["train"]["resumed"] == had_saved
    weights, ranks, losses = outcome(tmp_path)
    expected_weights, expected_ranks, expected_losses = uninterrupted(config)
    assert losses == expected_losses
    assert len(losses) >= EPOCHS * 2
    assert weights.keys() == expected_weights.keys()
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected_weights.items())
    assert all(np.array_equal(ranks[name], expected) for name, expected in expected_ranks.items())


def test_killed_during_validation(dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any]) -> None:
    config = "fixture_lora"
    arguments = ("fit", config, dataset, tmp_path, *MORE, *CONFIGS[config])
    assert killed(arguments, trap(Method, "validation_step", 2)) == -signal.SIGKILL
    assert run(*arguments) == 0
    assert all(np.array_equal(outcome(tmp_path)[0][name], t) for name, t in uninterrupted(config)[0].items())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("saves", [1, STEPS - 1, STEPS + 2])
def test_killed_and_resumed_inside_an_epoch(
    config: str,
    saves: int,
    dataset: Path,
    tmp_path: Path,
    uninterrupted: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("fit", config, dataset, tmp_path, *MORE, *CONFIGS[config], EACH_STEP)
    # One batch later than the checkpoint: the row of a step is written after the step was saved.
    assert killed(arguments, trap(Method, "on_train_batch_start", saves + 1)) == -signal.SIGKILL
    (path,) = tmp_path.rglob("last.ckpt")
    steps = SafeCheckpointIO().load_checkpoint(path)["global_step"]
    assert steps == saves  # every step was saved
    per_epoch = len(uninterrupted(config)[2]) // EPOCHS
    batches: list[int] = []
    original = Method.training_step
    monkeypatch.setattr(
        Method, "training_step", lambda self, batch, index: (batches.append(index), original(self, batch, index))[1]
    )
    assert run(*arguments) == 0
    assert batches == [index % per_epoch for index in range(saves, EPOCHS * per_epoch)]
    weights, ranks, losses = outcome(tmp_path)
    expected_weights, expected_ranks, expected_losses = uninterrupted(config)
    assert losses == expected_losses
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected_weights.items())
    assert all(np.array_equal(ranks[name], expected) for name, expected in expected_ranks.items())
    assert only_record(tmp_path)[1]["train"]["resumed"] == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_validation_inside_an_epoch_is_not_left_out(
    number: signal.Signals, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    validating = ("--trainer.val_check_interval=2", "--data.init_args.val_videos=2", "--best_on_val=true", EACH_STEP)
    whole = ("fit", "fixture_lora", dataset, tmp_path / "whole", *MORE, *validating)
    assert run(*whole) == 0
    broken = ("fit", "fixture_lora", dataset, tmp_path / "broken", *MORE, *validating)
    assert killed(broken, trap(Method, "training_step", 5, number)) in (-number, 128 + number)
    assert run(*broken) == 0
    assert only_record(tmp_path / "broken")[1]["train"]["resumed"] == 1
    logs = [next((tmp_path / name).rglob("metrics.csv")).read_text() for name in ("whole", "broken")]
    assert logs[0] == logs[1]
    weights, expected = outcome(tmp_path / "broken")[0], outcome(tmp_path / "whole")[0]
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected.items())


def test_saves_fall_on_whole_steps(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    original = SafeCheckpointIO.save_checkpoint

    def save(self: SafeCheckpointIO, checkpoint: dict[str, Any], *more: Any, **options: Any) -> None:
        saved.append(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"])
        original(self, checkpoint, *more, **options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", save)
    fit = ("--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=1", "--data.init_args.batch_size=2")
    assert run("fit", "fixtureqa_adaptformer", dataset, tmp_path, *fit, "--save_every_n_steps=3") == 0
    batches = saved[-1]
    assert saved[:-1] == list(range(4, batches, 4))


def test_other_training_rows_are_noticed(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    arguments = ("fit", "fixture_adaptformer", copy, tmp_path / "runs", *MORE, "--data.init_args.bad_videos=tolerate")
    assert killed(arguments, trap(Method, "on_train_batch_start", STEPS + 2)) == -signal.SIGKILL
    (copy / "videos" / "video3.mp4").unlink()
    assert run(*arguments) == 5
    assert "training_rows was" in capsys.readouterr().err


def test_half_a_step_is_not_saved(dataset: Path, tmp_path: Path) -> None:
    """Two batches make a step: what the first of them left in the gradients is in no checkpoint."""
    accumulating = ("--trainer.accumulate_grad_batches=2", *MORE, EACH_STEP)
    whole = ("fit", "fixtureqa_adaptformer", dataset, tmp_path / "whole", *accumulating)
    assert run(*whole) == 0
    broken = ("fit", "fixtureqa_adaptformer", dataset, tmp_path / "broken", *accumulating)
    assert killed(broken, trap(Method, "on_train_batch_start", STEPS + 4)) == -signal.SIGKILL
    assert run(*broken) == 0
    assert only_record(tmp_path / "broken")[1]["train"]["resumed"] == 1
    weights, expected = outcome(tmp_path / "broken")[0], outcome(tmp_path / "whole")[0]
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_the_step_and_has_its_exit_code(
    number: signal.Signals, dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any]
) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "training_step", STEPS + 2, number)) == 128 + number
    assert not list(tmp_path.rglob("result.json"))
    (path,) = tmp_path.rglob("last.ckpt")
    assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == STEPS + 2
    assert run(*arguments) == 0
    assert outcome(tmp_path)[2] == uninterrupted("fixture_adaptformer")[2]


def test_a_second_signal_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    """torchrun hands on to its processes what a scheduler has sent to all."""

    def twice() -> None:
        trap(Method, "training_step", STEPS + 2, signal.SIGTERM)()
        trap(Method, "optimizer_step", STEPS + 2, signal.SIGTERM)()

    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, twice) == 128 + signal.SIGTERM
    (path,) = tmp_path.rglob("last.ckpt")
    assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == STEPS + 2


#: where, the call of it at which the group is signalled, seconds that it takes, and steps that are done then
STOPS = {
    "in a step": (Method, "training_step", 2, 0.0, {2}),
    "in a step that takes long": (Method, "training_step", 4, 600.0, {3}),
    "in a step of the second epoch": (Method, "training_step", 5, 0.0, {5}),
    "waiting for a batch": (ClipLoader, "load", 10, 600.0, {1, 2}),
    "while saving": (SafeCheckpointIO, "_replace", 1, 0.1, {3}),
    "in validation": (Method, "validation_step", 2, 600.0, {3}),
    "in the test": (Method, "test_step", 1, 600.0, {9}),
}


@pytest.mark.parametrize("moment", STOPS)
def test_a_signal_to_the_whole_group(
    moment: str, dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal and a scheduler signal loader processes, too; nothing is lost, nobody is waited for."""
    config = "fixture_lora"
    owner, name, count, takes, steps = STOPS[moment]
    number = list(ASKED)[count % len(ASKED)]
    after = (ResumePoints, "on_train_batch_end") if owner is ClipLoader else None  # helpers may be ahead of the steps
    arguments = ("fit", config, dataset, tmp_path, *MORE, *CONFIGS[config], "--data.init_args.eval_batch_size=1")
    assert killed(arguments, group_trap(owner, name, count, number, takes, after)) == 128 + number
    (path,) = tmp_path.rglob("last.ckpt")
    assert SafeCheckpointIO().load_checkpoint(path)["global_step"] in steps
    told = capfd.readouterr().err
    assert told.count(f"petl-bench: stopped by {number.name}; the same command goes on from {path}\n") == 1
    assert "Traceback" not in told
    assert run(*arguments) == 0
    weights, ranks, losses = outcome(tmp_path)
    expected_weights, expected_ranks, expected_losses = uninterrupted(config)
    assert losses == expected_losses
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected_weights.items())
    assert all(np.array_equal(ranks[name], expected) for name, expected in expected_ranks.items())


def test_a_signal_before_the_first_step(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, group_trap(Method, "configure_optimizers", 1, signal.SIGTERM)) == 143
    assert "petl-bench: stopped by SIGTERM; no step was made, so nothing is lost\n" in capfd.readouterr().err
    assert not list(tmp_path.rglob("last.ckpt"))


def test_a_stop_in_half_a_step_keeps_the_whole_ones(dataset: Path, tmp_path: Path) -> None:
    """Two batches make a step; in the first of them the gradients are of no use to a later run."""
    accumulating = ("--trainer.accumulate_grad_batches=2", *MORE)
    arguments = ("fit", "fixtureqa_adaptformer", dataset, tmp_path / "broken", *accumulating)
    assert killed(arguments, group_trap(Method, "training_step", 5, signal.SIGTERM, 600.0)) == 143
    (path,) = tmp_path.rglob("last.ckpt")
    assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == 2
    assert run(*arguments) == 0
    assert run("fit", "fixtureqa_adaptformer", dataset, tmp_path / "whole", *accumulating) == 0
    (weights, _, losses), (expected, _, expected_losses) = outcome(tmp_path / "broken"), outcome(tmp_path / "whole")
    assert losses == expected_losses
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected.items())


def test_what_a_stop_cannot_save_is_said(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def prepare() -> None:
        trap(Method, "training_step", STEPS + 2, signal.SIGTERM)()
        replace = SafeCheckpointIO._replace

        def once(*args: Any) -> None:
            replace(*args)
            SafeCheckpointIO._replace = full  # type: ignore[method-assign]

        def full(*args: Any) -> None:
            raise CheckpointError("cannot write the checkpoint: No space left on device; the one before is kept")

        SafeCheckpointIO._replace = once  # type: ignore[method-assign]

    assert killed(("fit", "fixture_adaptformer", dataset, tmp_path, *MORE), prepare) == 143
    (path,) = tmp_path.rglob("last.ckpt")
    assert (
        "petl-bench: stopped by SIGTERM; cannot write the checkpoint: No space left on device; the one before is kept; "
        f"the same command goes on from {path}\n"
    ) in capfd.readouterr().err


def test_overwrite_begins_anew(dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any]) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1)) == -signal.SIGKILL
    assert run(*arguments, "--overwrite=true") == 0
    assert list(tmp_path.rglob("seed0.replaced1/last.ckpt"))
    assert outcome(tmp_path)[2] == uninterrupted("fixture_adaptformer")[2]


@pytest.mark.parametrize("more", [(), ("--overwrite=true",)])
def test_two_processes_in_one_folder(
    more: tuple[str, ...], dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1)) == -signal.SIGKILL
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    (checkpoint.parent / ".being-written.tmp").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with locked(checkpoint.parent):
        assert killed((*arguments, *more), lambda: None) == 2
    assert "another process is at work" in capfd.readouterr().err
    lock = checkpoint.parent.with_name(".seed0.lock")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != lock} == {
        path: time for path, time in before.items() if path != lock
    }


@pytest.mark.parametrize("damage", ["cut", "bit", "zeros", "gone"])
def test_a_damaged_checkpoint_is_left_for_the_one_before(
    damage: str, dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any]
) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", 2 * STEPS + 1)) == -signal.SIGKILL
    (path,) = tmp_path.rglob("last.ckpt")
    whole = bytearray(path.read_bytes())
    path.unlink()
    if damage == "bit":
        whole[len(whole) // 2] ^= 4
    if damage != "gone":
        path.write_bytes({"cut": whole[:1000], "bit": whole, "zeros": bytes(len(whole))}[damage])
    assert run(*arguments) == 0
    assert only_record(tmp_path)[1]["train"]["resumed"] == 1
    weights, _, losses = outcome(tmp_path)
    expected_weights, _, expected_losses = uninterrupted("fixture_adaptformer")
    assert losses == expected_losses
    assert all(np.array_equal(weights[name], tensor) for name, tensor in expected_weights.items())


def test_changed_annotations_are_noticed(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, runs = tmp_path / "copy", tmp_path / "runs"
    shutil.copytree(dataset, copy)
    arguments = ("fit", "fixture_adaptformer", copy, runs, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1)) == -signal.SIGKILL
    path = copy / "MSRVTT_data.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(*arguments) == 5
    assert "data.init_args.captions_file was sha256:" in capsys.readouterr().err
    assert run(*arguments, "--allow_change", "data.init_args.captions_file") == 0
    train = only_record(runs)[1]["train"]
    assert train["changed"].keys() == {"data.init_args.captions_file"}
    assert train["resumed"] == 1


def test_another_configuration_is_noticed(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    arguments = ("fit", "fixture_adaptformer", dataset, runs, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1)) == -signal.SIGKILL
    (path,) = runs.rglob("last.ckpt")
    rate = "model.init_args.optimizer.init_args.lr"
    other = (*arguments, f"--ckpt_path={path}", f"--{rate}=0.5", "--data.init_args.max_words=9")
    assert run(*other) == 5
    told = capsys.readouterr().err
    assert f"{rate} was " in told
    assert "is 0.5" in told
    assert run(*other, "--allow_change", rate, "data") == 0
    changed = only_record(runs)[1]["train"]["changed"]
    assert changed.keys() == {rate, "data.init_args.max_words"}
    assert changed[rate][1] == "0.5"
