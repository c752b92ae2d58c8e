"""What the processes of one run owe each other: no waiting for ever, no orphans, one cause."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from petl_bench.errors import DistributedError, UsageError

#: what gloo, NCCL and torch's store say when another process is gone or does not answer
_LOST = re.compile(r"gloo|nccl|closed by peer|connection (reset|refused|closed)|timed? ?out|TCPStore|broken pipe", re.I)
#: seconds that launched processes get to end by themselves
_GRACE = 5.0


def configure_ddp(strategy: object, timeout: int, static_graph: bool) -> None:
    """Sets what Lightning makes of the strategies `ddp` and `auto`.

    Args:
        strategy: as configured.
        timeout: seconds after which a process that others wait for counts as lost.
        static_graph: whether every step uses the same parameters in the same order, which lets DDP work ahead.

    Raises:
        UsageError: the strategy shards parameters or needs code that is not here.
    """
    if timeout < 1:
        raise UsageError(f"collective_timeout is {timeout}: it must be at least 1 second")
    if isinstance(strategy, str) and strategy not in ("auto", "ddp"):
        raise UsageError(
            f"trainer.strategy '{strategy}': runs are spread by ddp only (adapters are written from whole parameters); "
            "use auto or ddp"
        )
    StrategyRegistry.register(
        "ddp",
        DDPStrategy,
        description="DDP of petl_bench",
        override=True,
        timeout=timedelta(seconds=timeout),
        static_graph=static_graph,
    )


@contextmanager
def ended_together(trainer: Trainer) -> Iterator[None]:
    """Ends the processes that Lightning launched when this one fails in the block.

    Raises:
        DistributedError: this process failed only because another one is gone or hangs.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not _LOST.search(str(error)):
            _end(_launched(trainer))
            raise
        ended = _end(_launched(trainer))
        reason = " ".join(str(error).split()).rsplit("] ", 1)[-1].split(". ")[0][:150]
        raise DistributedError(
            f"rank {trainer.global_rank} lost the other processes{ended}; the first error printed says why; "
            f"without one, a process was killed or hung for --collective_timeout seconds ({reason})"
        ) from error
    except BaseException:
        _end(_launched(trainer))
        raise


def _launched(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    """The processes that this one started; none under torchrun and SLURM, which end them themselves."""
    watched = getattr(trainer.strategy.launcher, "procs", [])
    processes = list(watched)
    watched.clear()  # Lightning's watchdog would kill this process, too, before it can say what happened
    return processes


def _end(processes: list[subprocess.Popen[bytes]]) -> str:
    """Waits a little, then kills; says how those ended that did so by themselves."""
    ended = []
    for rank, process in enumerate(processes, 1):
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(_GRACE)
            ended.append(f"rank {rank} was killed by signal {-code}" if code < 0 else f"rank {rank} ended with {code}")
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return f": {', '.join(ended)}" if ended else ""
