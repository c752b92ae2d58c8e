"""Hands runs over to submitit: to processes of this machine, or to a SLURM array that goes back into its queue.

What submitit leaves to us: how many local jobs run at once and which GPU each has (it starts all of them, with GPU 0);
and a stop that lets a run save itself (its own kills a job after a second).
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.errors import UsageError
from petl_bench.machine.signals import ASKED, STOP, When, end_with_the_parent

#: seconds between two looks at what is running
_LOOK = 0.2
#: minutes that a local job may take: as many as it wants
_NO_LIMIT = 60 * 24 * 365
#: how often a SLURM job may reach its time limit
_TIMES = 1000
#: in SLURM's environment variables the signal that says that the time is over: one that every process of a run heeds
_SIGNAL = "USR1"


def require_submitit() -> Any:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", _SIGNAL)
    try:
        import submitit
    except ImportError as error:
        raise UsageError("submitit hands runs over, and is not installed: pip install 'petl-bench[sweep]'") from error
    return submitit


class Job:
    """One command in a process of its own, as submitit calls it; it is pickled by name, with plain texts alone.

    Args:
        command: program and arguments.
        record: file that is there when the work is done.
        log: file that takes what is printed, behind what it holds.
        variables: of the environment; None takes one out of it.
    """

    def __init__(
        self, command: Sequence[str], record: str, log: str, variables: Mapping[str, str | None] | None = None
    ) -> None:
        self.command, self.record, self.log = tuple(command), record, log
        self.variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def __call__(self) -> int:
        """Runs the command; its exit code, negative for a signal."""
        if self.record and Path(self.record).is_file():
            return 0  # it was just done when the job was asked to go back into the queue
        given = {**os.environ, **{name: value for name, value in self.variables.items() if value is not None}}
        environment = {name: value for name, value in given.items() if self.variables.get(name, "") is not None}
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            end_with_the_parent(signal.SIGTERM)
        with Path(self.log).open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                preexec_fn=partial(end_with_the_parent, signal.SIGTERM),
            )
        signal.signal(signal.SIGTERM, lambda number, frame: self._pass_on(number))
        while (code := self._process.poll()) is None:
            time.sleep(_LOOK)
        return code

    def checkpoint(self) -> Any:
        """What submitit calls where the time is over: the run saves itself, and the same job goes on later."""
        from submitit.helpers import DelayedSubmission

        self._pass_on(signal.SIGUSR1)
        if self._process is not None:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(self.command, self.record, self.log, self.variables))

    def _pass_on(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def petl_bench(arguments: Sequence[str]) -> list[str]:
    """The command that runs `petl-bench` with arguments, by the Python at hand."""
    return [sys.executable, "-m", "petl_bench", *arguments]


class Task(NamedTuple):
    """A job and how it is called in messages."""

    name: str
    job: Job


class Outcome(NamedTuple):
    """How a job ended: its exit code, None of one that was not begun."""

    task: Task
    code: int | None

    @property
    def last_words(self) -> str:
        """The signal that ended it, or else the last line that it printed."""
        if self.code is not None and self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        try:
            lines = Path(self.task.job.log).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it printed nothing"
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


# --- this machine -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """Jobs on this machine.

    Attributes:
        at_once: how many run side by side.
        folder: for submitit's files.
        gpus: those of each of them; empty where runs take what is there.
    """

    at_once: int
    folder: Path
    gpus: Sequence[str | None]

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool], tell: Callable[[Outcome], None]) -> bool:
        """Runs jobs in their order; a signal stops those that run, which save themselves, and begins no other.

        Args:
            tasks: what to run.
            wanted: asked before each: whether it is to be run still.
            tell: called with what became of each.

        Returns:
            Whether all were begun.
        """
        executor = require_submitit().LocalExecutor(self.folder)
        executor.update_parameters(timeout_min=_NO_LIMIT)
        waiting, free = deque(tasks), deque(self.gpus or [None] * self.at_once)
        running: list[tuple[Any, Task, str | None]] = []
        with STOP.at(When.AFTERWARDS), _not_alone():
            while running or (waiting and not STOP.number):
                while waiting and free and not STOP.number:
                    if not wanted(task := waiting.popleft()):
                        tell(Outcome(task, None))
                        continue
                    gpu = free.popleft()
                    running.append((self._submitted(executor, task, gpu), task, gpu))
                if STOP.number:
                    _stop(job for job, _, _ in running)
                time.sleep(_LOOK)
                before, running = running, []
                for job, task, gpu in before:
                    if not job.done():
                        running.append((job, task, gpu))
                        continue
                    free.append(gpu)
                    tell(Outcome(task, _code_of(job)))
        return not waiting

    def _submitted(self, executor: Any, task: Task, gpu: str | None) -> Any:
        # submitit says which GPUs a job has by their numbers from 0 on, whichever this process may use.
        task.job.variables["CUDA_VISIBLE_DEVICES"] = gpu if gpu is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
        with _left_to_runs():
            return executor.submit(task.job)


def gpus_of(at_once: int, each: int, present: Sequence[str]) -> list[str]:
    """The GPUs of every slot, as `CUDA_VISIBLE_DEVICES` has them.

    Args:
        at_once: slots.
        each: GPUs of a slot.
        present: GPUs of this machine.

    Raises:
        UsageError: there are not as many.
    """
    if at_once * each > len(present):
        raise UsageError(
            f"--jobs {at_once}: runs take {each} GPU{'s' * (each != 1)} each, and {len(present)} "
            f"{'are' if len(present) != 1 else 'is'} visible here"
        )
    return [",".join(present[slot * each : (slot + 1) * each]) for slot in range(at_once)]


@contextmanager
def _not_alone() -> Iterator[None]:
    """Inside, a signal leaves this process a minute, as the runs that it waits for need to save themselves."""
    STOP.alone = False
    try:
        yield
    finally:
        STOP.alone = True


@contextmanager
def _left_to_runs() -> Iterator[None]:
    """What is started inside does not hear the signals of a terminal; the runs that it starts do."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set(ASKED) - {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _stop(jobs: Iterator[Any]) -> None:
    """Asks runs to save themselves and end; again and again, as one may be just beginning."""
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)  # the process of submitit, which passes it on


def _code_of(job: Any) -> int:
    """The exit code of a local job; of one whose own processes were killed, 1."""
    try:
        return int(job.result())
    except Exception:  # submitit's, with a traceback that says nothing of the run
        return 1


# --- SLURM ------------------------------------------------------------------------------------------------------------


def submit_array(folder: Path, options: Mapping[str, Any], tasks: Sequence[Task], last: Task) -> list[str]:
    """Submits jobs as an array, each of which goes back into the queue when its time is over, and one after them all.

    Args:
        folder: for submitit's files; every machine must see it.
        options: of `sbatch`, in submitit's words (`partition`, `time` in minutes, `gpus_per_node`, ...).
        tasks: of the array.
        last: begins when they have ended, however they did.

    Returns:
        The numbers of the jobs.

    Raises:
        UsageError: there is no SLURM here, an option is unknown, or SLURM does not take the jobs.
    """
    submitit = require_submitit()
    setup = [f"export SUBMITIT_PREEMPT_SIGNAL={shlex.quote(os.environ['SUBMITIT_PREEMPT_SIGNAL'])}"]
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=_TIMES)
        executor.update_parameters(
            **{"job_name": "petl-bench", "additional_parameters": {"requeue": True}, "setup": setup, **options}
        )
        with executor.batch():
            jobs = [executor.submit(task.job) for task in tasks]
        array = jobs[0].job_id.partition("_")[0]
        executor.update_parameters(dependency=f"afterany:{array}", gpus_per_node=None, array_parallelism=1)
        jobs.append(executor.submit(last.job))
    except Exception as error:
        raise UsageError(f"--slurm: {' '.join(str(error).split())[:500]}") from error
    return [job.job_id for job in jobs]
