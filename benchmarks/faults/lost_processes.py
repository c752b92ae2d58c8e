"""F10, F11, F12: a loss that is no number, ranks and loader processes that die or hang."""

import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.faults.trials import HELD, Bench, Ended, Trial, first_problem, loadable, orphans, refused

_TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")
#: seconds: the time limit of a process that hangs, and what starting and ending take on a busy machine
_LIMIT, _PATIENCE = 20, 90
_LIMITED = (*_TWO, f"--collective_timeout={_LIMIT}")


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F10", "loss not finite, one process", _not_finite_alone)
    for rank in (0, 1):
        yield Trial("F10", f"loss not finite in rank {rank} of 2", partial(_not_finite, rank))
    for rank in (0, 1):
        for fault in ("error", "kill", "exit", "hang"):
            yield Trial("F11", f"rank {rank} of 2: {fault}", partial(_lost_rank, fault, rank))
    for fault in ("kill", "hang"):
        yield Trial("F11", f"rank 1 of 2 under torchrun: {fault}", partial(_under_torchrun, fault))
    for fault in ("loader dies", "loader hangs"):
        yield Trial("F12", fault, partial(_lost_loader, fault))
    yield Trial("F12", "a pipe in place of a clip", _pipe)


def _not_finite_alone(bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.fit(runs), FAULT="nan")
    return first_problem(refused(ended, 3, "training videos"), loadable(runs))


def _not_finite(rank: int, bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.fit(runs, *_TWO), FAULT="nan", FAULT_RANK=str(rank))
    return first_problem(refused(ended, 3, "training videos", messages=2), loadable(runs), orphans(runs))


def _lost_rank(fault: str, rank: int, bench: Bench) -> str:
    runs = bench.new()
    options = _LIMITED if fault == "hang" else _TWO
    ended = bench.run(bench.fit(runs, *options), patience=_PATIENCE, FAULT=fault, FAULT_RANK=str(rank))
    # Of a first process that is killed or ends at once nobody can choose the code.
    expected = {"kill": -9, "exit": 9, "hang": 6, "error": 1}[fault] if rank == 0 else 6
    code = HELD if ended.code == expected else f"exit code {ended.code}, expected {expected}"
    return first_problem(_ended_in_time(ended), code, loadable(runs), orphans(runs))


def _under_torchrun(fault: str, bench: Bench) -> str:
    runs = bench.new()
    command = bench.fit(runs, *(_LIMITED if fault == "hang" else _TWO))[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    patience = _PATIENCE + 30  # which torchrun gives a process that does not answer before it kills it
    ended = bench.run([*launcher, *command], patience=patience, FAULT=fault, FAULT_RANK="1")
    return first_problem(_ended_in_time(ended, patience), loadable(runs), orphans(runs))


def _ended_in_time(ended: Ended, patience: float = _PATIENCE) -> str:
    if ended.seconds >= patience:
        return f"still running after {ended.seconds:.0f} s"
    return HELD if ended.code else "exit code 0"


def _lost_loader(fault: str, bench: Bench) -> str:
    more = ("--data.init_args.num_workers=1", "--data.init_args.loader_timeout=5")
    return refused(bench.run(bench.fit(bench.new(), *more), FAULT=fault), 4, ".mp4")


def _pipe(bench: Bench) -> str:
    """A named pipe in place of a clip: whoever opens it waits for ever."""
    data = bench.new("data") / "data"
    shutil.copytree(bench.data, data)
    clip = min((data / "videos").glob("*.mp4"))
    clip.unlink()
    os.mkfifo(clip)
    return refused(bench.run(bench.fit(bench.new(), f"--data.init_args.root={data}")), 4, clip.stem)
