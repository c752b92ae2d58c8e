"""Where processes meet: what is said of a name, a port, and nobody there; and that nobody waits longer than asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from petl_bench.errors import DistributedError
from petl_bench.runs import processes
from petl_bench.runs.processes import Place, Ranks, fresh_store


@pytest.fixture
def port() -> Iterator[int]:
    """One on which somebody listens who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free(port: int) -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE", 0.1)
    monkeypatch.setattr(processes, "_POLL", 0.05)


def reach(place: Place, rank: int, seconds: float = 0.1) -> None:
    place.require_reachable(rank, time.monotonic() + seconds, "nobody came")


def test_the_port_of_another_program(port: int) -> None:
    with pytest.raises(DistributedError, match=f"rank 0 cannot listen on port {port}, .*: set MASTER_PORT to a free"):
        reach(Place("127.0.0.1", port, hosted=False), 0)
    reach(Place("127.0.0.1", port, hosted=True), 0)  # torchrun's
    reach(Place("127.0.0.1", port, hosted=False), 1)


def test_a_free_port(free: int) -> None:
    reach(Place("127.0.0.1", free, hosted=False), 0)
    with pytest.raises(DistributedError, match="nobody came"):
        reach(Place("127.0.0.1", free, hosted=False), 1)


def test_a_port_that_becomes_free(free: int) -> None:
    """The group of before may still be ending."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place("127.0.0.1", listener.getsockname()[1], hosted=False)
        threading.Timer(0.05, listener.close).start()
        reach(place, 0, 5.0)


def test_rank_0_comes_late(free: int) -> None:
    def listen() -> None:
        with socket.create_server(("127.0.0.1", free)) as listener:
            listener.accept()

    threading.Timer(0.2, listen).start()
    reach(Place("127.0.0.1", free, hosted=False), 1, 5.0)


def test_a_name_without_a_machine(free: int) -> None:
    for rank in (0, 1):
        with pytest.raises(DistributedError, match=r"MASTER_ADDR is nohost\.invalid, and no machine is found"):
            reach(Place("nohost.invalid", free, hosted=False), rank)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("... EADDRINUSE, message: address already in use"), "cannot listen on port"),
        (
            RuntimeError("Timed out after 3 seconds waiting for clients. 1/2"),
            r"\(--collective_timeout\): start them .*open",
        ),
        (RuntimeError("ncclSystemError: no route"), r"--collective_timeout.*\(ncclSystemError: no route\)"),
        (ValueError("a\nb"), r"\(a b\)"),
    ],
)
def test_what_torch_says_becomes_one_line(error: Exception, told: str, port: int) -> None:
    with (
        pytest.raises(DistributedError, match=told) as caught,
        Ranks().meeting(Place("127.0.0.1", port, hosted=True), 0, 2, timedelta(seconds=9)),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_waiting_in_torch_ends_in_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever C++ does meanwhile, a thread ends this process."""
    written, codes, ended = bytearray(), [], threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(processes, "_ANSWER", 0.1)
    monkeypatch.setattr(processes.os, "write", lambda _, text: written.extend(text))
    monkeypatch.setattr(processes.os, "_exit", leave)
    with Ranks().meeting(Place("127.0.0.1", port, hosted=True), 1, 2, timedelta(seconds=0.1)):
        assert ended.wait(10)
    assert codes == [6]
    assert written.startswith(b"petl-bench: error: rank 1 of 2 did not meet the others at 127.0.0.1:")
    assert written.count(b"\n") == 1


def test_a_group_that_is_started_again_finds_nothing_of_the_one_before(free: int) -> None:
    """The launcher's store outlives the ranks, and what they wrote."""
    launcher = TCPStore("127.0.0.1", free, is_master=True, wait_for_workers=False)
    place = Place("127.0.0.1", free, hosted=True)
    for group in range(3):
        with ThreadPoolExecutor(3) as pool:
            stores = list(pool.map(lambda rank: fresh_store(place, rank, 3, timedelta(seconds=20)), (2, 1, 0)))
        assert not any(store.check(["address"]) for store in stores)
        stores[2].set("address", str(group))
        assert {store.get("address") for store in stores} == {str(group).encode()}
    del launcher


def test_a_group_one_of_whose_ranks_never_comes(free: int) -> None:
    launcher = TCPStore("127.0.0.1", free, is_master=True, wait_for_workers=False)
    place = Place("127.0.0.1", free, hosted=True)
    with pytest.raises(TimeoutError, match=r"timed out waiting for ranks \[1\]"):
        fresh_store(place, 0, 2, timedelta(seconds=0.3))
    del launcher
