"""What the processes of one run owe each other: no waiting for ever, no orphans, one cause."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from petl_bench.errors import DistributedError, UsageError
from petl_bench.signals import ASKED, LAUNCHED_BY, STOP, end_helpers, starting_helpers

#: what gloo, NCCL and torch's store say when another process is gone or does not answer
_LOST = re.compile(r"gloo|nccl|closed by peer|connection (reset|refused|closed)|timed? ?out|TCPStore|broken pipe", re.I)
#: seconds that processes get to end by themselves, and where a signal has asked them to, too
_GRACE, _GRACE_STOPPED = 5.0, 1.0


def configure_ddp(strategy: object, timeout: int, static_graph: bool, ranks: Ranks) -> None:
    """Sets what Lightning makes of the strategies `ddp` and `auto`.

    Args:
        strategy: as configured.
        timeout: seconds after which a process that others wait for counts as lost.
        static_graph: whether every step uses the same parameters in the same order, which lets DDP work ahead.
        ranks: takes charge of the processes that are launched.

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
        _DDP,
        description="DDP of petl_bench",
        override=True,
        ranks=ranks,
        timeout=timedelta(seconds=timeout),
        static_graph=static_graph,
    )


class Ranks(Callback):
    """Ends all processes that Lightning launched when one of them fails; torchrun and SLURM do that themselves.

    Lightning's own watchdog kills the first process without a word as soon as another one ends with an error, and
    leaves the others alone where the first one fails.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def take(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Takes charge of the processes that this one has launched."""
        self._processes = processes
        threading.Thread(target=self._watch, daemon=True).start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Here, because loaders that hang would keep their loader waiting, which asks them to end.
        STOP.leaving = bool(STOP.number)
        end_helpers()

    @contextmanager
    def together(self, trainer: Trainer) -> Iterator[None]:
        """Ends the other processes when this one fails in the block.

        Raises:
            DistributedError: this process failed only because another one is gone or hangs.
        """
        try:
            yield
        except BaseException as error:  # whatever ends this process, a signal too, must leave no other one behind
            ended = self._end()
            lost = isinstance(error, RuntimeError) and trainer.world_size > 1 and _LOST.search(str(error))
            if not lost:
                raise
            reason = " ".join(str(error).split()).rsplit("] ", 1)[-1].split(". ")[0][:150]
            raise DistributedError(
                f"rank {trainer.global_rank} lost the other processes{ended}; the first error printed says why; "
                f"without one, a process was killed or hung for --collective_timeout seconds ({reason})"
            ) from error

    def _watch(self) -> None:
        """Ends this process, too, where it does not notice by itself that another one has failed."""
        while not any(process.poll() for process in self._processes):
            time.sleep(0.2)
        codes = [process.returncode for process in self._processes if process.returncode]
        if asked := {-code if code < 0 else code - 128 for code in codes} & set(ASKED):
            os.kill(os.getpid(), asked.pop())  # who signalled one of them meant the run
            return
        time.sleep(2 * _GRACE)
        ended = self._end()
        message = f"petl-bench: error: rank 0 is ended{ended}; the first error printed says why\n"
        with suppress(OSError):  # of a terminal that hung up
            os.write(2, message.encode())
        os._exit(DistributedError.exit_code)

    def _end(self) -> str:
        """Waits a little, then kills; says how those ended that did so by themselves."""
        ended, deadline = [], time.monotonic() + (_GRACE_STOPPED if STOP.number else _GRACE)
        for rank, process in enumerate(self._processes, 1):
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(max(0.0, deadline - time.monotonic()))
                how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
                ended.append(f"rank {rank} {how}")
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        return f": {', '.join(ended)}" if ended else ""


class _DDP(DDPStrategy):
    """Lightning's, whose launched processes belong to `Ranks` from their start on."""

    def __init__(self, *args: Any, ranks: Ranks, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ranks = ranks

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
        self._launcher.ranks = self._ranks


class _Launcher(_SubprocessScriptLauncher):
    """Starts processes with the signals blocked until they can handle them."""

    ranks: Ranks

    def _call_children_scripts(self) -> None:
        os.environ[LAUNCHED_BY] = str(os.getpid())
        try:
            with starting_helpers():
                super()._call_children_scripts()
                self.ranks.take(self.procs)
                self.procs = []  # which leaves Lightning's watchdog nothing to watch
        finally:
            del os.environ[LAUNCHED_BY]
