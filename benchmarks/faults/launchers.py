"""F100 to F107: who is who among processes, how they meet, and that none is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.faults.trials import HELD, Bench, Ended, Trial, completed, first_problem, incomplete, orphans, refused

#: seconds that two machines wait for each other, and that anything may take on a busy machine
_LIMIT, _PATIENCE = 10, 180
#: what a job can leave in a shell, of every launcher
_LEFT_OVER = {
    **{"RANK": "1", "LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "nohost.invalid", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"},
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    **{"PMI_RANK": "1", "PMI_SIZE": "2", "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"},
}
_TWO = ("--trainer.devices=2",)
_TWO_MACHINES = ("--trainer.num_nodes=2", f"--collective_timeout={_LIMIT}")


def trials() -> Iterator[Trial]:
    """All of them."""
    for count in (1, 2):
        yield Trial("F100", f"T1a, T1b, T2 variables of another job, {count} processes", partial(_left_over, count))
    yield Trial("F101", "T1d the same run from a shell with RANK=1", _locked)
    for started, asked in ((2, 1), (1, 2)):
        name = f"T3c torchrun starts {started}, {asked} asked for"
        yield Trial("F102", name, partial(_torchrun_starts, started, asked))
    yield Trial("F102", "S2 one task of SLURM, 2 devices", _one_task)
    yield Trial("F103", "T5a MASTER_PORT in use, one machine", _port_of_another)
    yield Trial("F104", "T5a MASTER_PORT in use, two machines", partial(_by_hand, "0", "cannot listen on port"))
    yield Trial("F104", "what listens there never answers", partial(_by_hand, "1", "did not meet the others"))
    yield Trial("F104", "MASTER_ADDR means no machine", _no_such_machine)
    yield Trial("F104", "T7 the first machine never comes", _never_comes)
    for rank in ("0", "1"):
        yield Trial("F105", f"SIGTERM while machine {rank} waits for the other", partial(_stopped_waiting, rank))
    yield Trial("F106", "torchrun is killed while its processes start", partial(_launcher_killed, False))
    yield Trial("F106", "the first process is killed while the second starts", partial(_launcher_killed, True))
    yield Trial("F107", "a rank is killed, torchrun starts all again, 4 times", partial(_started_again, 4))


def torchrun(processes: int, command: Sequence[str], *options: str) -> list[str]:
    """A command of `Bench` under torchrun on one machine."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    return [*launcher, *options, *command[1:]]


def world_size(runs: Path) -> int:
    """Of the only complete run below a folder; 0 without one."""
    records = [json.loads(path.read_text()) for path in runs.rglob("result.json")]
    return int(records[0]["train"]["world_size"]) if len(records) == 1 else 0


def of_processes(ended: Ended, runs: Path, count: int) -> str:
    """`HELD` if a run is complete and says that so many processes made it."""
    found = world_size(runs)
    return first_problem(completed(ended), HELD if found == count else f"the record says {found} processes")


def _left_over(count: int, bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.fit(runs, f"--trainer.devices={count}"), _PATIENCE, **_LEFT_OVER)
    told = HELD if "RANK=1" in ended.text and "is ignored" in ended.text else f"not told: {ended.text[-300:]}"
    return first_problem(of_processes(ended, runs, count), told)


def _locked(bench: Bench) -> str:
    runs = bench.new()
    first = bench.start(bench.fit(runs), FAULT="hang")
    try:
        if not _appears(runs, "config.yaml"):
            return "the first run did not begin"
        return refused(bench.run(bench.fit(runs), RANK="1"), 2, "another process is at work")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()


def _torchrun_starts(started: int, asked: int, bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(torchrun(started, bench.fit(runs, f"--trainer.devices={asked}")), _PATIENCE)
    told = [line for line in ended.messages if f"torchrun started {started}" in line and f"devices {asked}" in line]
    problem = HELD if ended.code and len(told) == started else f"not refused: {ended.text[-300:]}"
    return first_problem(problem, HELD if not list(runs.iterdir()) else "the run got a folder")


def _one_task(bench: Bench) -> str:
    runs = bench.new()
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "jupyter", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    return of_processes(bench.run(bench.fit(runs, *_TWO), _PATIENCE, **job), runs, 2)


def _port_of_another(bench: Bench) -> str:
    runs = bench.new()
    with _listening() as port:
        ended = bench.run(bench.fit(runs, *_TWO), _PATIENCE, MASTER_PORT=port)
    return first_problem(of_processes(ended, runs, 2), orphans(runs))


def _by_hand(rank: str, told: str, bench: Bench) -> str:
    """One of two machines, where another program has the port."""
    runs = bench.new()
    with _listening() as port:
        ended = bench.run(bench.fit(runs, *_TWO_MACHINES, *_TWO), _PATIENCE, **_machine(rank, port))
    return first_problem(refused(ended, 6, told), _names(ended, "MASTER_PORT"), incomplete(runs), orphans(runs))


def _no_such_machine(bench: Bench) -> str:
    variables = _machine("1", "29500") | {"MASTER_ADDR": "nohost.invalid"}
    return refused(
        bench.run(bench.fit(bench.new(), *_TWO_MACHINES), _PATIENCE, **variables), 6, "MASTER_ADDR is nohost"
    )


def _never_comes(bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.fit(runs, *_TWO_MACHINES), _PATIENCE, **_machine("1", _free_port()))
    return first_problem(refused(ended, 6, "did not meet"), _names(ended, "--collective_timeout"), orphans(runs))


def _stopped_waiting(rank: str, bench: Bench) -> str:
    """With a second process on the machine, and all the time of the world."""
    runs, output = bench.new(), bench.new("output") / "output.txt"
    command = bench.fit(runs, "--trainer.num_nodes=2", *_TWO)
    with output.open("w") as file:
        process = bench.start(command, file, **_machine(rank, _free_port()))
        if not _says(output, "[rank: 1] Seed set"):  # of the second process
            return f"it never waited: {output.read_text()[-300:]}"
        time.sleep(5)  # into the wait
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "deaf to SIGTERM while it waits for the others"
    seconds = time.monotonic() - asked
    problem = HELD if code == 143 and seconds < 15 else f"exit code {code} after {seconds:.0f} s"
    return first_problem(problem, orphans(runs))


def _launcher_killed(is_rank: bool, bench: Bench) -> str:
    """The process that started the others, at several moments before training."""
    for delay in (0.5, 4.0, 9.0):
        runs = bench.new()
        command = bench.fit(runs, *_TWO, "--collective_timeout=60")
        process = bench.start(command if is_rank else torchrun(2, command))
        if not is_rank or _appears(runs, "config.yaml"):  # about when it starts the second one
            time.sleep(delay)
        process.kill()
        process.wait()
        if problem := orphans(runs):
            return f"killed after {delay} s: {problem}"
    return HELD


def _started_again(times: int, bench: Bench) -> str:
    """The same step kills rank 1 each time; each new group must get that far."""
    runs = bench.new()
    command = torchrun(2, bench.fit(runs, *_TWO), f"--max_restarts={times}", "--monitor_interval=0.2")
    ended = bench.run(command, 60 * (times + 2), FAULT="kill", FAULT_RANK="1")
    met = ended.text.count("All distributed processes registered")
    problem = HELD if met == times + 1 else f"{met} of {times + 1} groups met: {ended.messages[-1:]}"
    return first_problem(problem, HELD if ended.code else "exit code 0", orphans(runs))


def _machine(rank: str, port: str) -> dict[str, str]:
    return {"NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _names(ended: Ended, word: str) -> str:
    return HELD if any(word in line for line in ended.messages) else f"{word} is not named: {ended.messages}"


@contextmanager
def _listening() -> Iterator[str]:
    """A port on which somebody listens who never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def _appears(folder: Path, name: str) -> bool:
    return _within(lambda: bool(list(folder.rglob(name))))


def _says(path: Path, text: str) -> bool:
    return _within(lambda: text in path.read_text(errors="replace"))


def _within(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.1)
    return False
