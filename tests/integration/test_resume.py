"""A run that is killed goes on as if nothing had happened: the same losses, the same weights to the last bit."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from petl_bench.checkpoints import SafeCheckpointIO
from petl_bench.method import Method
from petl_bench.run import locked
from tests.integration.fixture_run import only_record, run

EPOCHS, STEPS = 3, 4  # 16 videos x 2 captions in batches of 8
MORE = (f"--trainer.max_epochs={EPOCHS}", "--trainer.log_every_n_steps=1")
UNIADAPTER = ("--model.init_args.task.init_args.queue_size=16", "--model.init_args.task.init_args.k_test=2")
CONFIGS = {
    "fixture_adaptformer": (),
    "fixture_uniadapter": UNIADAPTER,  # with queue and momentum encoder
    "fixture_lora": ("--data.init_args.num_workers=2", "--best_on_val=true", "--data.init_args.val_videos=4"),
}


def killed(arguments: tuple[Any, ...], prepare: Callable[[], None]) -> int:
    """Exit code of a run in a process of its own, in which `prepare` laid a trap; negative for a signal."""
    child = os.fork()
    if not child:
        code = 70
        try:
            prepare()
            code = run(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trap(owner: Any, name: str, count: int, number: int = signal.SIGKILL) -> Callable[[], None]:
    """Kills the process when a method has been called so many times."""

    def prepare() -> None:
        original, calls = getattr(owner, name), [0]

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            calls[0] += 1
            if calls[0] == count:
                os.kill(os.getpid(), number)
            return result

        setattr(owner, name, counted)

    return prepare


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
    assert run(*arguments) == 0
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_has_its_exit_code(number: signal.Signals, dataset: Path, tmp_path: Path) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1, number)) == 128 + number
    assert not list(tmp_path.rglob("result.json"))
    assert list(tmp_path.rglob("last.ckpt"))


def test_overwrite_begins_anew(dataset: Path, tmp_path: Path, uninterrupted: Callable[[str], Any]) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1)) == -signal.SIGKILL
    assert run(*arguments, "--overwrite=true") == 0
    assert list(tmp_path.rglob("seed0.replaced1/last.ckpt"))
    assert outcome(tmp_path)[2] == uninterrupted("fixture_adaptformer")[2]


def test_two_processes_in_one_folder(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("fit", "fixture_adaptformer", dataset, tmp_path, *MORE)
    assert killed(arguments, trap(Method, "on_train_batch_end", STEPS + 1)) == -signal.SIGKILL
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    with locked(checkpoint.parent):
        assert killed(arguments, lambda: None) == 2
    assert "another process is at work" in capfd.readouterr().err


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
    assert "annotation files was" in capsys.readouterr().err
    assert run(*arguments, "--overwrite=true") == 0
