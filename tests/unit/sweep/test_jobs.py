"""What submitit is handed, really by its local executor, and for SLURM by stand-ins for `sbatch` and its siblings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from petl_bench.errors import UsageError
from petl_bench.machine.signals import ASKED
from petl_bench.sweep.jobs import Job, Local, Outcome, Task, gpus_of, submit_array

#: a run that says on which GPU it is and which signals it does not hear, and ends as it is told
SAYS = "import os, signal; print(os.environ.get('CUDA_VISIBLE_DEVICES')); raise SystemExit({code})"
#: a run that saves itself when it is asked to end
SAVES = """
import signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    sys.exit(128 + number)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, save)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
print("began", flush=True)
time.sleep(60)
"""


def task(name: str, code: str, folder: Path, record: str = "") -> Task:
    return Task(name, Job([sys.executable, "-c", code], record, str(folder / f"{name}.log")))


def until(path: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while not (path.is_file() and text in path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_side_by_side_have_a_gpu_each(tmp_path: Path) -> None:
    """A job that fails stops no other, one that is not wanted any more is left out."""
    tasks = [task("a", SAYS.format(code=0), tmp_path), task("b", SAYS.format(code=3), tmp_path)]
    left_out = task("c", SAYS.format(code=0), tmp_path)
    outcomes: list[Outcome] = []
    local = Local(2, tmp_path / "submitit", gpus_of(2, 2, ["4", "5", "6", "7"]))
    assert local.run([*tasks, left_out], lambda one: one is not left_out, outcomes.append)
    assert {outcome.task.name: outcome.code for outcome in outcomes} == {"a": 0, "b": 3, "c": None}
    assert {outcome.last_words for outcome in outcomes} == {"4,5", "6,7", "it printed nothing"}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []).isdisjoint(ASKED)
    assert Outcome(tasks[0], -signal.SIGKILL).last_words == "ended by SIGKILL"


def test_more_jobs_than_gpus() -> None:
    assert gpus_of(2, 1, ["GPU-a", "GPU-b"]) == ["GPU-a", "GPU-b"]
    with pytest.raises(UsageError, match="--jobs 2: runs take 2 GPUs each, and 3 are visible here"):
        gpus_of(2, 2, ["0", "1", "2"])


STAND_INS = {
    "srun": "",
    "sbatch": 'n=$(ls "$SEEN" | wc -l); cp "$1" "$SEEN/$n.sh"; echo "Submitted batch job 7$n"',
    "scontrol": 'echo "$@" >> "$SEEN/scontrol"',
}


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-ins put what they are given."""
    programs, found = tmp_path / "bin", tmp_path / "seen"
    programs.mkdir()
    found.mkdir()
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(found))
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    return found


def test_a_slurm_job_goes_back_into_the_queue_when_its_time_is_over(tmp_path: Path, seen: Path) -> None:
    tasks = [task("a", SAVES, tmp_path), task("b", SAVES, tmp_path)]
    options = {"time": 60, "partition": "gpu", "gpus_per_node": 1}
    assert submit_array(tmp_path / "slurm", options, tasks, task("report", "", tmp_path)) == ["70_0", "70_1", "71"]
    array, last = ((seen / f"{number}.sh").read_text(encoding="utf-8") for number in range(2))
    for line in ("array=0-1%2", "requeue", "partition=gpu", "time=60", "gpus-per-node=1", "signal=USR1@90"):
        assert f"#SBATCH --{line}\n" in array
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR1\n" in array
    assert "#SBATCH --dependency=afterany:70\n" in last
    assert "gpus" not in last

    # What the array's first job does on its machine.
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "72", "SLURM_ARRAY_JOB_ID": "70", "SLURM_PROCID": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "submitit.core._submit", str(tmp_path / "slurm")],
        env={**os.environ, **variables, "SLURM_ARRAY_TASK_ID": "0"},
    )
    until(tmp_path / "a.log", "began")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) != 0
    assert (tmp_path / "a.log").read_text(encoding="utf-8") == "began\nsaved\n"
    assert (seen / "scontrol").read_text(encoding="utf-8") == "requeue 70_0\n"
    assert (tmp_path / "slurm" / "70_0_submitted.pkl").is_file(), "it is there for the next start"


def test_a_job_that_was_done_meanwhile_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    done = task("a", SAYS.format(code=3), tmp_path, str(tmp_path / "result.json"))
    assert done.job() == 0
    assert not (tmp_path / "a.log").exists()


@pytest.mark.usefixtures("seen")
def test_what_slurm_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task("a", SAVES, tmp_path)]
    with pytest.raises(UsageError, match=r"--slurm: Unavailable parameter.*partitoin"):
        submit_array(tmp_path / "slurm", {"partitoin": "gpu"}, tasks, tasks[0])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="--slurm: Could not detect"):
        submit_array(tmp_path / "slurm", {}, tasks, tasks[0])
