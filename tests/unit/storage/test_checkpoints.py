"""Checkpoints: whole or not there, with the one before, and a clear word about a bad one."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from petl_bench.errors import CheckpointError
from petl_bench.storage import checkpoints
from petl_bench.storage.checkpoints import (
    BEFORE_LAST,
    LAST,
    SafeCheckpointIO,
    read_checkpoint,
    require_training_state,
    resumable,
    sweep,
)

IO = SafeCheckpointIO()


def state(number: int, size: int = 100) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size,), float(number))}, "global_step": number}


def saved(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        IO.save_checkpoint(state(number), folder / LAST)
    return folder / LAST


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2, 3)
    assert IO.load_checkpoint(path)["global_step"] == 3
    assert read_checkpoint(tmp_path / BEFORE_LAST)["global_step"] == 2
    assert len(list(tmp_path.iterdir())) == 4  # two checkpoints and their digests


@pytest.mark.parametrize("damage", ["empty", "zeros", "text", "cut", "bit", "gone"])
def test_a_damaged_last_one_is_left_for_the_one_before(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path, 1, 2)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    contents = {"empty": b"", "zeros": bytes(999), "text": b"no checkpoint", "cut": whole[:300], "bit": bytes(whole)}
    path.unlink()
    if damage != "gone":
        path.write_bytes(contents[damage])
    with pytest.warns(UserWarning, match=r"going back to last-1\.ckpt"):
        assert IO.load_checkpoint(path)["global_step"] == 1
    (tmp_path / BEFORE_LAST).unlink()
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        IO.load_checkpoint(path)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_a_checkpoint_that_runs_code_runs_none(tmp_path: Path) -> None:
    path, mark = tmp_path / "bomb.ckpt", tmp_path / "mark"
    for write in (
        lambda: torch.save({"state_dict": Bomb(str(mark))}, path),
        lambda: path.write_bytes(pickle.dumps(Bomb(str(mark)))),
    ):
        write()
        with pytest.raises(CheckpointError, match=r"bomb\.ckpt"):
            read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("state_dict", [3, [], {"a": 3}, {3: torch.ones(1)}, {"a": {"b": torch.ones(1)}}])
def test_a_checkpoint_of_another_shape(tmp_path: Path, state_dict: Any) -> None:
    torch.save({"state_dict": state_dict}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt is no checkpoint: its 'state_dict'"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_file_of_tensors_that_no_training_goes_on_from(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt is no checkpoint of a training: it lacks pytorch-lightning_v"
    ):
        require_training_state(path)
    path.write_bytes(b"damaged")
    require_training_state(path)  # is told when it is loaded
    whole = dict.fromkeys(("pytorch-lightning_version", "epoch", "loops", "optimizer_states", "lr_schedulers"))
    IO.save_checkpoint(state(1) | whole, path)
    require_training_state(path)


@pytest.mark.parametrize("run", [None, 3, {}, {"basis": 3, "changed": {}, "resumed": 0}, {"basis": {}, "changed": {}}])
def test_a_checkpoint_that_does_not_say_what_it_depends_on(tmp_path: Path, run: Any) -> None:
    points = checkpoints.ResumePoints(tmp_path, {}, None, [])
    with pytest.raises(CheckpointError, match="does not say what it depends on"):
        points.on_load_checkpoint(cast(Any, None), cast(Any, None), {"run": run})


THREADS = torch.get_num_threads()
CAPABILITY = torch.backends.cpu.get_cpu_capability()


def resumed(folder: Path, before: dict[str, Any], *allowed: str, device: str = "cpu") -> dict[str, list[str]]:
    """What has changed since a checkpoint that depends on this, where the run goes on on that device."""
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        world_size=1,
        datamodule=SimpleNamespace(training_rows_sha256="rows"),
        ckpt_path=folder / LAST,
    )
    points = checkpoints.ResumePoints(folder, {"lr": 1}, None, allowed)
    basis = {"lr": 1, "processes": 1, "training_rows": "rows", **before}
    checkpoint = {"run": {"basis": basis, "changed": {}, "resumed": 0}}
    points.on_load_checkpoint(cast(Any, trainer), cast(Any, None), checkpoint)
    return points.changed


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (
            {"threads": THREADS + 1},
            rf"threads was {THREADS + 1}, is {THREADS} \(OMP_NUM_THREADS\).*--allow_change threads",
        ),
        ({"threads": THREADS, "cpu_capability": "VSX"}, f"cpu_capability was VSX, is {CAPABILITY}"),
    ],
)
def test_what_decides_the_last_bit_on_a_cpu_must_be_as_it_was(
    tmp_path: Path, before: dict[str, Any], told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        resumed(tmp_path, before)
    changed = resumed(tmp_path, before, "threads", "cpu_capability")
    assert len(changed) == 1
    assert (
        changed.items() <= {"threads": [f"{THREADS + 1}", f"{THREADS}"], "cpu_capability": ["VSX", CAPABILITY]}.items()
    )


@pytest.mark.parametrize(
    ("before", "device"),
    [
        ({}, "cpu"),  # a checkpoint of an earlier version, or of a GPU
        ({"threads": THREADS, "cpu_capability": CAPABILITY}, "cpu"),
        ({"threads": THREADS + 1, "cpu_capability": "VSX"}, "cuda"),
    ],
)
def test_what_decides_nothing_is_not_compared(tmp_path: Path, before: dict[str, Any], device: str) -> None:
    assert resumed(tmp_path, before, device=device) == {}


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.ckpt", "s3://bucket/a.ckpt"])
def test_addresses_are_refused(address: str) -> None:
    with pytest.raises(CheckpointError, match="from disk only"):
        IO.load_checkpoint(address)


def test_a_full_disk_leaves_the_checkpoint_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100, "total": 1000})())
    with pytest.raises(CheckpointError, match="100 are free"):
        IO.save_checkpoint(state(2), path)
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] unexpected pos 704 vs 598\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="unexpected pos"):
        IO.save_checkpoint(state(2), path)
    assert IO.load_checkpoint(path)["global_step"] == 1
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        IO.save_checkpoint(state(1), tmp_path / "file" / LAST)


def test_killed_while_saving(tmp_path: Path) -> None:
    """Whatever the moment, a whole checkpoint can be read, and what is left over is swept."""
    rng = torch.Generator().manual_seed(0)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        child = os.fork()
        if not child:
            for number in range(10_000):
                IO.save_checkpoint(state(number, 300_000), folder / LAST)
            os._exit(0)
        time.sleep(0.02 + 0.1 * float(torch.rand(1, generator=rng)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = resumable(folder)
        if found is None:  # killed before the first one was whole
            continue
        checkpoint = IO.load_checkpoint(found)
        assert (checkpoint["state_dict"]["w"] == checkpoint["global_step"]).all()
        sweep(folder)
        assert not list(folder.glob(".*.tmp"))


def test_no_checkpoint_nothing_to_resume(tmp_path: Path) -> None:
    assert resumable(tmp_path) is None
    saved(tmp_path, 1, 2)
    (tmp_path / LAST).unlink()
    assert resumable(tmp_path) == tmp_path / BEFORE_LAST
