"""F1, F3, F9: kill -9 at random moments, also while saving, and signals."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.faults.forked import Forked
from benchmarks.faults.trials import (
    HELD,
    Bench,
    Trial,
    completed,
    first_problem,
    incomplete,
    loadable,
    orphans,
    resumed,
)
from petl_bench.storage.checkpoints import LAST, SafeCheckpointIO, sweep

RANDOM_KILLS, SAVE_KILLS = 10, 100
#: tries to come before the end
_EARLIER = 4
_SAVING = ("--save_every_n_steps=1",)


def trials() -> Iterator[Trial]:
    """All of them."""
    for number in range(RANDOM_KILLS):
        yield Trial("F1", f"kill -9 at random moment {number + 1}, resume", partial(_at_random, number))
    yield Trial("F1", "kill -9 of one of two processes, resume", _two_processes)
    yield Trial("F3", f"{SAVE_KILLS} times kill -9 while saving", _while_saving)
    for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        yield Trial("F9", f"{asked.name} saves the step and ends", partial(_signalled, asked, False))
    for asked in (signal.SIGTERM, signal.SIGINT):
        yield Trial("F9", f"{asked.name} to loader processes, too", partial(_signalled, asked, True))
    yield Trial("F9", "SIGTERM to one of two processes", _one_of_two)


def _at_random(number: int, bench: Bench) -> str:
    """Kills somewhere between the first and the last file of a run, then gives the same command again."""
    more = (*_SAVING, "--trainer.max_epochs=20", f"--data.init_args.num_workers={2 * (number % 2)}")
    bench.uninterrupted(*more)
    seconds = bench.seconds(*more) * random.Random(number).uniform(0.02, 0.9)
    for _ in range(_EARLIER):
        runs = bench.new()
        command = bench.fit(runs, *more)
        process = bench.start(command)
        if problem := _wait_for(runs, process, "config.yaml"):
            return problem
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not list(runs.rglob("result.json")):
            break
        seconds /= 2  # the machine was busier when the uninterrupted run was timed
    else:
        return "it was complete before it was killed"
    had_saved = bool(list(runs.rglob(LAST)))
    return first_problem(
        completed(bench.run(command)), bench.compared(runs, *more), resumed(runs) if had_saved else HELD
    )


def _two_processes(bench: Bench) -> str:
    """In the middle of the second epoch; both must go on from there together."""
    more = (*_SAVING, "--trainer.devices=2", "--trainer.strategy=ddp")
    runs = bench.new()
    killed = bench.run(bench.fit(runs, *more), FAULT="kill", FAULT_RANK="1")
    if killed.code == 0:
        return "exit code 0"
    again = bench.run(bench.fit(runs, *more))
    return first_problem(completed(again), bench.compared(runs, *more), resumed(runs))


def _while_saving(bench: Bench) -> str:
    """Forks a process that saves for ever, kills it, loads what is there."""
    folder = bench.new("saving")
    path, io, moments = folder / LAST, SafeCheckpointIO(), random.Random(0)
    io.save_checkpoint(_checkpoint(0), path)
    loaded, before = 0, 0
    for _ in range(SAVE_KILLS):
        child = os.fork()
        if not child:
            _save_for_ever(path, before)
        time.sleep(moments.uniform(0.02, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = io.load_checkpoint(path)
        whole = bool((found["state_dict"]["weight"] == found["global_step"]).all())
        loaded += whole and found["global_step"] >= before - 1
        before = max(before, found["global_step"])
    sweep(folder)
    left = [left.name for left in folder.glob(".*")]
    return HELD if loaded == SAVE_KILLS and not left else f"{loaded} of {SAVE_KILLS} loadable, left behind: {left}"


def _save_for_ever(path: Path, step: int) -> None:
    while True:
        step += 1
        SafeCheckpointIO().save_checkpoint(_checkpoint(step), path)


def _checkpoint(step: int) -> dict[str, object]:
    return {"global_step": step, "state_dict": {"weight": torch.full((2_000_000,), float(step))}}  # 8 MB


def _signalled(asked: signal.Signals, to_all: bool, bench: Bench) -> str:
    """Sends a signal when the first epoch is saved; the same command must then go on to the same weights."""
    more = ("--trainer.max_epochs=40", f"--data.init_args.num_workers={2 * to_all}")
    runs = bench.new()
    command = bench.fit(runs, *more)
    process = bench.start(command)
    if problem := _wait_for(runs, process):
        return problem
    (os.killpg if to_all else os.kill)(process.pid, asked)
    code = process.wait(60)
    if code != 128 + asked:
        return f"exit code {code}, expected {128 + asked}"
    if problem := incomplete(runs):
        return problem
    return first_problem(loadable(runs), completed(bench.run(command)), bench.compared(runs, *more), resumed(runs))


def _one_of_two(bench: Bench) -> str:
    """Only the process that launched the other gets the signal; both save and end."""
    runs = bench.new()
    command = bench.fit(runs, "--trainer.max_epochs=200", "--trainer.devices=2", "--trainer.strategy=ddp")
    process = bench.start(command)
    if problem := _wait_for(runs, process):
        return problem
    os.kill(process.pid, signal.SIGTERM)
    code = process.wait(60)
    return first_problem(HELD if code == 143 else f"exit code {code}, expected 143", loadable(runs), orphans(runs))


def _wait_for(runs: Path, process: "subprocess.Popen[bytes] | Forked", name: str = LAST) -> str:
    """Waits for a file below a folder."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if list(runs.rglob(name)):
            return HELD
        time.sleep(0.01)
    process.kill()
    return f"no {name} within 60 s"
