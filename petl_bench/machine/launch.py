"""Who started this process, and its rank among how many; found out without torch.

Variables such as `RANK` outlive the job that set them: in shells attached to it, in scripts that export them, in
containers. So they count only where their launcher is at work, and whatever else is in the environment means nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from petl_bench.errors import DistributedError, UsageError
from petl_bench.formats import shown

#: holds the number of the process that launched this one as one of several
LAUNCHED_BY = "PETL_BENCH_LAUNCHED_BY"
#: what launchers set: rank and number of the processes; `NODE_RANK` may be set by hand
_RANKS = (
    *("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK"),
    *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK"),
)
_SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
#: of MPI's launchers: number of processes, rank
_MPI = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
_JSRUN = ("LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE")
#: shells that salloc starts give the job their name; its tasks are not theirs
_SHELLS = ("bash", "interactive", "sh", "zsh", "fish", "csh", "tcsh", "ksh")
_TORCHRUN = re.compile(r"(\S*/)?(torchrun|accelerate)|(\S*/)?torch[./]distributed[./](run|launch)(\.py)?")
_MPIRUN = re.compile(r"(\S*/)?(mpirun|mpiexec|orterun|orted|prterun|prted|hydra_\w+)(\.\w+)?")


@dataclass(frozen=True)
class Launch:
    """Who started this process.

    Attributes:
        launcher: `torchrun`, `srun`, `mpirun`, `jsrun`, or `petl-bench`, which starts the other processes of a
            machine; empty where nobody started this process as one of several.
        rank: among all of them.
        world: how many the launcher started; 0 if it does not say.
        variable: that says so.
    """

    launcher: str = ""
    rank: int = 0
    world: int = 1
    variable: str = ""


def this_launch() -> Launch:
    """The launch of this process.

    Raises:
        UsageError: a variable of a launcher at work is no number.
        DistributedError: the launcher is gone.
    """
    if LAUNCHED_BY in os.environ:
        return Launch("petl-bench", number_in("LOCAL_RANK", 0), 0)
    if _of_torchrun():
        return Launch("torchrun", number_in("RANK", 0), number_in("WORLD_SIZE", 1), "WORLD_SIZE")
    for size, rank in _MPI:
        if size in os.environ and (world := number_in(size, 1)) > 1 and _descends_from(_MPIRUN):
            return Launch("mpirun", number_in(rank, 0), world, size)
    if os.environ.keys() >= set(_JSRUN) and Path(os.environ["LSB_DJOB_RANKFILE"]).is_file():
        return Launch("jsrun", number_in("JSM_NAMESPACE_RANK", 0), number_in("JSM_NAMESPACE_SIZE", 1), _JSRUN[-1])
    if in_a_step() and "SLURM_PROCID" in os.environ:
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in os.environ else "SLURM_NTASKS"
        # The one task of a shell holds the number that the whole job has.
        world = 1 if size == "SLURM_NTASKS" and in_a_shell() else number_in(size, 1)
        return Launch("srun", number_in("SLURM_PROCID", 0), world, size) if world > 1 else Launch()
    return Launch()


@contextmanager
def without_left_overs() -> Iterator[str]:
    """Hides a rank in the environment that no launcher gave this process from libraries; yields it as text.

    Afterwards the variables are as they were before, also those that Lightning sets.
    """
    names = (*_RANKS, *_SIZES, "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK")
    before = {name: os.environ.get(name) for name in names}
    alone = not this_launch().launcher
    found = {name: os.environ.pop(name) for name in (*_RANKS, *_SIZES) if alone and name in os.environ}
    told = {name: value for name, value in found.items() if value != ("1" if name in _SIZES else "0")}
    try:
        yield ", ".join(f"{name}={shown(value)}" for name, value in told.items())
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def in_a_step() -> bool:
    """Whether srun started this process, or one above it."""
    return bool(os.environ.keys() & {"SLURM_STEP_ID", "SLURM_STEPID"})


def in_a_shell() -> bool:
    """Whether a SLURM job was made for a shell, whose commands start processes themselves."""
    return os.environ.get("SLURM_JOB_NAME") in _SHELLS


def number_in(variable: str, default: int) -> int:
    """The whole number that a variable of the environment holds, from 0 on.

    Raises:
        UsageError: it holds something else.
    """
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{variable} is {shown(text)} in the environment: it must be a whole number")
    return int(text)


def require_one_process(command: str) -> None:
    """Refuses to run a command several times over that one process runs.

    Raises:
        UsageError: a launcher started several.
    """
    launch = this_launch()
    if launch.world > 1:
        raise UsageError(
            f"{command} runs as one process, but {launch.launcher} started {launch.world} ({launch.variable}): give "
            f"the command without {launch.launcher}"
        )


def _of_torchrun() -> bool:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    if _descends_from(_TORCHRUN):
        return True
    if os.getppid() == 1 and "TORCHELASTIC_RESTART_COUNT" in os.environ:
        raise DistributedError(
            "torchrun, which started this process, is gone (TORCHELASTIC_RUN_ID is set, and no torchrun above this "
            "process); unset TORCHELASTIC_RUN_ID if it is left over from another job"
        )
    return False


def _descends_from(launcher: re.Pattern[str]) -> bool:
    """Whether this process descends from a launcher; where there is no /proc, its variables are believed."""
    if not Path("/proc/self/stat").is_file():
        return True
    return any(launcher.fullmatch(word) for words in _commands_above(os.getppid()) for word in _programs(words))


def _commands_above(process: int) -> Iterator[list[str]]:
    """The command lines of a process and of those above it."""
    while process > 0:
        folder = Path(f"/proc/{process}")
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            process = int((folder / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
        except OSError:  # it has ended meanwhile
            return
        yield words


def _programs(words: list[str]) -> Iterator[str]:
    """The program of a command line, and the script or module that it runs if it is Python."""
    yield words[0]
    rest = iter(words[1:] if "python" in words[0].rsplit("/", 1)[-1] else ())
    for word in rest:
        if word in ("-X", "-W"):
            next(rest, None)
        elif word == "-m" or not word.startswith("-"):
            yield next(rest, "") if word == "-m" else word
            return
