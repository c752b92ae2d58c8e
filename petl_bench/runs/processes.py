"""The processes of one run: none waits for ever, none outlives the others, and the cause of an end is named once."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from petl_bench.errors import DistributedError
from petl_bench.machine.launch import LAUNCHED_BY
from petl_bench.machine.signals import ASKED, STOP, end_helpers, starting_helpers

#: what gloo, NCCL and torch's store say when another process is gone or does not answer
_LOST = re.compile(r"gloo|nccl|closed by peer|connection (reset|refused|closed)|timed? ?out|TCPStore|broken pipe", re.I)
_TIMED_OUT = re.compile(r"timed? ?out", re.I)
#: seconds that processes get to end by themselves, and where a signal has asked them to, too
_GRACE, _GRACE_STOPPED = 5.0, 1.0
#: seconds that a name server, or who had a port before, may take; between two looks; and that an answer may take
_PATIENCE, _POLL, _ANSWER = 5.0, 0.2, 2.0


class Ranks(Callback):
    """Ends all processes that Lightning launched when one of them fails; torchrun and SLURM do that themselves.

    Lightning's own watchdog kills the first process without a word as soon as another one ends with an error, and
    leaves the others alone where the first one fails.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around the start of other processes, which leave the signals to this one until they can handle them."""
        os.environ[LAUNCHED_BY] = str(os.getpid())
        try:
            with starting_helpers():
                yield
        finally:
            del os.environ[LAUNCHED_BY]

    def take(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """Takes charge of the processes that this one has launched."""
        self._processes = processes
        threading.Thread(target=self._watch, daemon=True).start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Here, because loaders that hang would keep their loader waiting, which asks them to end.
        STOP.leaving = bool(STOP.number)
        end_helpers()

    @contextmanager
    def ending_together(self, trainer: Trainer) -> Iterator[None]:
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
        """Ends this process as well where it does not notice that another one has failed."""
        while not any(process.poll() for process in self._processes):
            time.sleep(0.2)
        codes = [process.returncode for process in self._processes if process.returncode]
        if asked := {-code if code < 0 else code - 128 for code in codes} & set(ASKED):
            os.kill(os.getpid(), asked.pop())  # who signalled one of them meant the run
            return
        time.sleep(2 * _GRACE)
        ended = self._end()
        message = f"petl-bench: error: rank 0 is ended{ended}; the first error printed says why\n"
        os.write(2, message.encode())
        os._exit(DistributedError.exit_code)

    @contextmanager
    def joining(
        self, environment: ClusterEnvironment, rank: int, world: int, timeout: timedelta
    ) -> Iterator[Store | None]:
        """Around what waits for the other processes, see `meeting`; gives a fresh part of torchrun's store.

        Raises:
            DistributedError: they do not find each other.
        """
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        place = Place(environment.main_address, environment.main_port, hosted)
        with self.meeting(place, rank, world, timeout):
            yield fresh_store(place, rank, world, timeout) if hosted else None

    @contextmanager
    def meeting(self, place: Place, rank: int, world: int, timeout: timedelta) -> Iterator[None]:
        """Context for waiting for the other processes: the wait ends in time, and says why.

        torch waits several times over, and for ever where something else listens on the port.

        Raises:
            DistributedError: the processes do not find each other.
        """
        seconds = timeout.total_seconds()
        failed = (
            f"rank {rank} of {world} did not meet the others at {place.address}:{place.port} within {seconds:.0f} "
            "seconds (--collective_timeout): start them all at once, with the same MASTER_ADDR (the machine of rank 0) "
            "and a MASTER_PORT that is free there and open to the others"
        )
        met = threading.Event()
        threading.Thread(target=self._await_meeting, args=(met, seconds + _ANSWER, failed), daemon=True).start()
        try:
            place.require_reachable(rank, time.monotonic() + seconds, failed)
            yield
        except (RuntimeError, ValueError, OSError) as error:
            if STOP.number:
                raise
            if "EADDRINUSE" in str(error):
                raise DistributedError(place.taken(rank)) from error
            reason = " ".join(str(error).split())[:150]
            raise DistributedError(failed if _TIMED_OUT.search(str(error)) else f"{failed} ({reason})") from error
        finally:
            met.set()

    def _await_meeting(self, met: threading.Event, seconds: float, failed: str) -> None:
        if met.wait(seconds):
            return
        self._end()
        os.write(2, f"petl-bench: error: {failed}\n".encode())
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


@dataclass(frozen=True)
class Place:
    """Where the processes of a run meet.

    Attributes:
        address: of the machine of rank 0.
        port: that rank 0 listens on.
        hosted: a launcher listens there instead.
    """

    address: str
    port: int
    hosted: bool

    def require_reachable(self, rank: int, deadline: float, failed: str) -> None:
        """Waits until rank 0 can listen, or is there; torch would try until its time is over, and print each try.

        Raises:
            DistributedError: the name means no machine, or the port is taken.
            TimeoutError: nobody listens until the deadline.
        """
        soon = min(deadline, time.monotonic() + _PATIENCE)
        self._until(soon, self._resolve, f"MASTER_ADDR is {self.address}, and no machine is found by that name here")
        if rank == 0 and not self.hosted:
            self._until(soon, self._listen, self.taken(rank))
        else:
            self._until(deadline, self._connect, failed)

    def taken(self, rank: int) -> str:
        """What to say if another program listens."""
        return (
            f"rank {rank} cannot listen on port {self.port}, which another program uses: set MASTER_PORT to a free one"
        )

    def _until(self, deadline: float, attempt: Callable[[], None], failed: str) -> None:
        while True:
            try:
                return attempt()
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise DistributedError(f"port {self.port}: {error.strerror}; set MASTER_PORT to another") from error
                if time.monotonic() > deadline:
                    raise DistributedError(failed) from error
            time.sleep(_POLL)

    def _resolve(self) -> None:
        socket.getaddrinfo(self.address, self.port)

    def _listen(self) -> None:
        with socket.create_server(("", self.port)):
            pass

    def _connect(self) -> None:
        with socket.create_connection((self.address, self.port), timeout=_ANSWER):
            pass


def fresh_store(place: Place, rank: int, world: int, timeout: timedelta) -> Store:
    """A part of the launcher's store that no group of before has written to.

    torchrun keeps its store when it starts a group again, and what the ranks of before left there, such as their
    addresses, would be taken for that of the new ones. Number of restarts and port do not tell groups apart: each
    machine counts its own restarts. So each rank says a word that was never said, and rank 0 answers to that word.

    Args:
        place: of the launcher's store.
        rank: of this process.
        world: number of processes.
        timeout: for everything.

    Raises:
        RuntimeError: rank 0 did not answer, or the launcher is gone.
        TimeoutError: another rank did not say its word.
    """
    store = TCPStore(place.address, place.port, is_master=False, timeout=timeout, wait_for_workers=False)
    word = uuid4().hex
    if rank:
        store.set(f"petl_bench/word/{rank}", word)
        group = store.get(f"petl_bench/answer/{word}").decode()
        store.set(f"petl_bench/{group}/{rank}", "here")
        return PrefixStore(f"petl_bench/{group}", store)
    deadline = time.monotonic() + timeout.total_seconds()
    missing = set(range(1, world))
    while missing:
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out waiting for ranks {sorted(missing)}")
        for other in missing:
            if store.check([f"petl_bench/word/{other}"]):  # it may be one of before, to which nobody listens
                store.set(f"petl_bench/answer/{store.get(f'petl_bench/word/{other}').decode()}", word)
        missing = {other for other in missing if not store.check([f"petl_bench/{word}/{other}"])}
        time.sleep(_POLL / 4)
    return PrefixStore(f"petl_bench/{word}", store)
