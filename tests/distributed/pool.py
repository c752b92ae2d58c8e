"""Pools of gloo processes, begun once and used by every test that needs several."""

import atexit
import functools
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.stops import fresh_processes

COLLECTIVE_TIMEOUT = timedelta(seconds=30)
CALL_TIMEOUT = 120.0  # seconds


class Pool:
    """`run` calls a module-level function in every process. A call that fails restarts the processes."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What function(*args) returns in each process, by rank.

        Raises:
            Exception: what the first failing process raised, with its traceback as a note.
            EOFError: a process died.
            TimeoutError: a process does not answer.
        """
        if not self._processes:
            self._start()
        try:
            call = pickle.dumps((function, args))
            for connection in self._connections:
                connection.send_bytes(call)
            outcomes = [self._receive(rank) for rank in range(self.world_size)]
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        except BaseException:
            # The others may wait in a collective that will never complete.
            self.close()
            raise
        return outcomes

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._connections = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        context = fresh_processes()
        self._folder = tempfile.TemporaryDirectory(prefix="petl_bench_pool_")
        store = Path(self._folder.name) / "store"
        for rank in range(self.world_size):
            connection, remote = context.Pipe()
            arguments = (remote, store, rank, self.world_size)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            remote.close()  # so that a process that dies ends its connection
            self._connections.append(connection)
            self._processes.append(process)

    def _receive(self, rank: int) -> Any:
        connection = self._connections[rank]
        if not connection.poll(CALL_TIMEOUT):
            raise TimeoutError(f"rank {rank} does not answer")
        return pickle.loads(connection.recv_bytes())


@functools.cache
def shared_pool(world_size: int) -> Pool:
    """One pool for the whole test session, whatever the number of modules that import the fixture."""
    pool = Pool(world_size)
    atexit.register(pool.close)
    return pool


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Two processes."""
    return shared_pool(2)


@pytest.fixture(scope="session", params=[1, 2, 3])
def any_pool(request: pytest.FixtureRequest) -> Pool:
    """One, two and three processes: what does not divide evenly shows with three."""
    return shared_pool(request.param)


def _serve(connection: Connection, store: Path, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    os.chdir(store.parent)  # which is there as long as the pool; the folder of the test that began it may not be
    dist.init_process_group(
        "gloo", init_method=store.as_uri(), rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT
    )
    while True:
        try:
            call = connection.recv_bytes()
        except EOFError:  # the test session is over
            return
        connection.send_bytes(pickle.dumps(_outcome(call, rank)))


def _outcome(call: bytes, rank: int) -> Any:
    try:
        function, args = pickle.loads(call)
        return function(*args)
    except Exception as error:
        error.add_note(f"on rank {rank}:\n{traceback.format_exc()}")
        return error
