"""F110 to F115: a real SLURM of one machine; its daemons run as root, with the user's word for who somebody is.

They are the installed ones (Debian: `apt-get install slurmctld slurmd slurm-client`), or Debian's packages unpacked
into the trials' own folder, where apt-get can have them: nothing is installed.
"""

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.faults.launchers import of_processes, world_size
from benchmarks.faults.trials import (
    HELD,
    PETL_BENCH,
    ROOT,
    Bench,
    Ended,
    Trial,
    completed,
    first_problem,
    loadable,
    orphans,
    resumed,
)

_PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libhwloc15", "liblua5.1-0", "libmunge2")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/slurm-wlm")
_TWO = "--trainer.devices=2"
_PATIENCE = 240
_CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=15
MinJobAge=600
ReturnToService=2
SlurmctldPort={first}
SlurmdPort={second}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F110", "SLURM: srun with two tasks", partial(_tried, _two_tasks))
    yield Trial("F110", "SLURM: srun with two tasks, one device", partial(_tried, _too_many_tasks))
    yield Trial("F111", "SLURM: an array, without srun", partial(_tried, _array))
    yield Trial("F112", "SLURM: a job of two tasks is put back into the queue", partial(_tried, _requeued))
    yield Trial("F113", "SLURM: scancel", partial(_tried, _cancelled))
    yield Trial("F115", "SLURM: a sweep whose jobs are told that their time is over", partial(_tried, _swept))


@dataclass(frozen=True)
class Cluster:
    """A running SLURM.

    Attributes:
        folder: for its files and those of jobs.
        environment: variables that its commands need.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, bench: Bench, *command: str) -> Ended:
        """One of SLURM's commands."""
        return bench.run(command, _PATIENCE, **self.environment)

    def submit(self, bench: Bench, output: Path, command: Sequence[str], *options: str) -> str:
        """The number of a job that gives a command."""
        script = output.with_suffix(".sh")
        script.write_text(f"#!/bin/sh\nexec {' '.join(command)}\n")
        ended = self.run(
            bench, "sbatch", "--parsable", "--open-mode=append", f"--output={output}", *options, str(script)
        )
        return ended.text.strip().splitlines()[-1]

    def state(self, bench: Bench, job: str) -> str:
        """`PENDING`, `RUNNING`, `COMPLETED`, ..."""
        shown = self.run(bench, "scontrol", "--oneliner", "show", "job", job).text
        return shown.split("JobState=", 1)[-1].split()[0]

    def wait(self, bench: Bench, job: str, *states: str) -> str:
        """`HELD` as soon as a job is in one of these states."""
        deadline = time.monotonic() + _PATIENCE
        while (state := self.state(bench, job)) not in states:
            if time.monotonic() > deadline:
                return f"job {job} is {state}, expected {states[0]}"
            time.sleep(0.5)
        return HELD


def _tried(trial: Callable[[Cluster, Bench], str], bench: Bench) -> str:
    cluster = _cluster(bench.folder)
    if isinstance(cluster, str):
        return cluster
    return trial(cluster, bench)


def _two_tasks(cluster: Cluster, bench: Bench) -> str:
    runs = bench.new()
    ended = cluster.run(bench, "srun", "--ntasks=2", *bench.fit(runs, _TWO))
    return first_problem(of_processes(ended, runs, 2), orphans(runs))


def _too_many_tasks(cluster: Cluster, bench: Bench) -> str:
    runs = bench.new()
    ended = cluster.run(bench, "srun", "--ntasks=2", *bench.fit(runs))
    told = [line for line in ended.messages if "trainer.devices is 1" in line and "is 2" in line]
    return (
        HELD if ended.code == 2 and len(told) == 2 and not list(runs.iterdir()) else f"not refused: {ended.text[-300:]}"
    )


def _array(cluster: Cluster, bench: Bench) -> str:
    runs, output = bench.new(), bench.new("job") / "output.txt"
    command = bench.fit(runs, "--seed_everything=$SLURM_ARRAY_TASK_ID")
    job = cluster.submit(bench, output, command, "--array=0-1", "--wait")
    records = [json.loads(path.read_text()) for path in runs.rglob("result.json")]
    seeds = sorted(record["id"]["seed"] for record in records)
    return HELD if seeds == [0, 1] else f"job {job}: records of seeds {seeds}: {output.read_text()[-300:]}"


def _requeued(cluster: Cluster, bench: Bench) -> str:
    runs, output = bench.new(), bench.new("job") / "output.txt"
    more = (_TWO, "--trainer.max_epochs=40")
    command = ["srun", *bench.fit(runs, *more, "--save_every_n_steps=1")]
    job = cluster.submit(bench, output, command, "--ntasks=2", "--requeue")
    if problem := _begun(runs):
        return problem
    cluster.run(bench, "scontrol", "requeue", job)
    # After a minute or two SLURM would begin by itself.
    problem = cluster.wait(bench, job, "PENDING", "RUNNING")
    cluster.run(bench, "scontrol", "update", f"JobId={job}", "StartTime=now")
    problem = problem or cluster.wait(bench, job, "COMPLETED", "FAILED", "CANCELLED")
    processes = HELD if world_size(runs) == 2 else f"no record of two processes: {output.read_text()[-400:]}"
    return first_problem(problem, processes, resumed(runs) if not processes else HELD, orphans(runs))


def _cancelled(cluster: Cluster, bench: Bench) -> str:
    runs, output = bench.new(), bench.new("job") / "output.txt"
    command = ["srun", *bench.fit(runs, _TWO, "--trainer.max_epochs=500")]
    job = cluster.submit(bench, output, command, "--ntasks=2")
    if problem := _begun(runs):
        return problem
    cluster.run(bench, "scancel", job)
    problem = cluster.wait(bench, job, "CANCELLED")
    text = output.read_text()
    told = HELD if text.count("petl-bench: stopped by SIGTERM") == 1 else f"not told once: {text[-400:]}"
    return first_problem(problem, orphans(runs), loadable(runs), told)


def _swept(cluster: Cluster, bench: Bench) -> str:
    runs, seeds = bench.new(), ("0", "1")
    fit = bench.command("fit", runs, "--trainer.max_epochs=40", "--save_every_n_steps=1", "--trainer.accelerator=cpu")
    more = [option for option in fit[len(PETL_BENCH) + 1 :] if not option.startswith("--config=")]
    own = ("--configs", "fixture_linear", "--seeds", *seeds, "--no-plan", f"--output={runs / 'report'}")
    submitted = cluster.run(bench, *PETL_BENCH, "sweep", *own, "--slurm", "cpus_per_task=1", "time=60", *more)
    if problem := first_problem(completed(submitted), _begun(runs, len(seeds))):
        return problem
    array = submitted.text.partition("runs as ")[2].partition(",")[0]
    for place in range(len(seeds)):
        cluster.run(bench, "scancel", "--signal=USR1", f"{array}_{place}")
    deadline = time.monotonic() + 2 * _PATIENCE
    while waiting := cluster.run(bench, "squeue", "--noheader", "--array", "--format=%i %r").text.strip():
        if time.monotonic() > deadline:
            return f"jobs are left: {waiting}"
        for line in waiting.splitlines():
            if "BeginTime" in line:  # it would be two minutes
                cluster.run(bench, "scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")
        time.sleep(1)
    records = [json.loads(path.read_text()) for path in runs.rglob("result.json")]
    times = [record["train"]["resumed"] for record in records]
    gone_on = HELD if times == [1, 1] else f"runs were continued {times} times"
    report = HELD if (runs / "report" / "report.json").is_file() else "there is no report"
    return first_problem(gone_on, report, orphans(runs))


def _begun(runs: Path, count: int = 1) -> str:
    """`HELD` once so many runs have a checkpoint."""
    deadline = time.monotonic() + _PATIENCE
    while len(list(runs.rglob("last.ckpt"))) < count:
        if time.monotonic() > deadline:
            return "training did not begin"
        time.sleep(0.1)
    return HELD


# --- the daemons ------------------------------------------------------------------------------------------------------


@functools.cache
def _cluster(above: Path) -> Cluster | str:
    """A SLURM, or why there is none."""
    folder = above / "slurm"
    folder.mkdir()
    paths = {name: shutil.which(name) for name in ("slurmctld", "slurmd", "srun")}
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    more, extra = "", []
    if not all(paths.values()):
        if problem := _unpack(folder):
            return problem
        root = folder / "root"
        libraries = [root / name for name in _LIBRARIES]
        environment["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        environment["PATH"] = f"{root / 'usr/bin'}:{os.environ['PATH']}"
        more = f"PluginDir={libraries[1]}\n"
        paths = {name: str(root / "usr/sbin" / f"{name}-wlm") for name in ("slurmctld", "slurmd")}
        extra = ["-d", str(root / "usr/sbin/slurmstepd-wlm")]
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    first, second = _free_ports()
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(host=host, folder=folder, first=first, second=second) + more
    )
    cluster = Cluster(folder, environment)
    for command in ([paths["slurmctld"], "-D"], [paths["slurmd"], "-D", "-N", host, *extra]):
        with (folder / "daemons.txt").open("a") as output:
            daemon = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FAULT": "none"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        atexit.register(_end, daemon)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if found.stdout.strip() == "idle":
            return cluster
        time.sleep(0.5)
    return f"not tried: SLURM does not start here: {(folder / 'daemons.txt').read_text()[-300:]}"


def _unpack(folder: Path) -> str:
    if shutil.which("apt-get") is None:
        return "not tried: no slurmctld, slurmd and srun here"
    got = subprocess.run(["apt-get", "download", *_PACKAGES], cwd=folder, capture_output=True, text=True, check=False)
    if got.returncode:
        return "not tried: no SLURM here, and its packages cannot be had: apt-get install slurmctld slurmd slurm-client"
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    return HELD


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.send_signal(signal.SIGTERM)
    daemon.wait()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
