"""A thread reads one batch ahead: the same batches in the same order, whatever is raised comes up, and none is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.custom import Custom
from petl_bench.data.workers import AheadLoader, LateLoader
from petl_bench.errors import DataError
from petl_bench.machine.signals import Stopped, handled


class Numbers(Dataset[int]):
    """Item i is i, from whatever thread; `before` is called first."""

    def __init__(self, count: int, before: Callable[[int], Any] = lambda _: None) -> None:
        self.count, self.before = count, before
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.before(index)
        self.read.append(index)
        self.threads.add(threading.current_thread().name)
        return index


def ahead(numbers: Numbers, **options: Any) -> AheadLoader:
    return AheadLoader(numbers, collate_fn=list, **{"batch_size": 2, **options})


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("petl_bench_ahead")]


def test_the_same_batches_in_the_same_order() -> None:
    for size in (1, 2, 5, 9):
        plain = [*DataLoader(Numbers(7), batch_size=size, collate_fn=list)]
        numbers = Numbers(7)
        loader = ahead(numbers, batch_size=size)
        assert [*loader] == plain
        assert [*loader] == plain
        assert all(name.startswith("petl_bench_ahead") for name in numbers.threads)
    assert [*ahead(Numbers(0))] == []
    assert not threads()


def test_one_batch_ahead_and_no_more() -> None:
    second, third = threading.Event(), threading.Event()
    numbers = Numbers(20, lambda index: {3: second, 5: third}[index].set() if index in (3, 5) else None)
    batches = iter(ahead(numbers))
    assert not threads()  # nothing begins before somebody asks
    assert next(batches) == [0, 1]
    assert second.wait(60)
    assert not third.wait(0.2)
    assert next(batches) == [2, 3]
    assert third.wait(60)
    batches.close()  # type: ignore[attr-defined]
    assert not threads()
    assert numbers.read == [0, 1, 2, 3, 4, 5]


def test_an_error_comes_up_where_its_batch_is_taken() -> None:
    def refuse(index: int) -> None:
        if index == 5:
            raise DataError("clip 5 is damaged")

    batches = iter(ahead(Numbers(20, refuse)))
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="clip 5 is damaged"):
        next(batches)
    assert not threads()


def test_a_signal_ends_the_wait_for_a_batch() -> None:
    going = threading.Event()

    def wait(index: int) -> None:
        if index == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            going.wait(0.5)

    numbers = Numbers(20, wait)
    with pytest.raises(Stopped), handled():
        for _ in ahead(numbers):
            pass
    assert len(numbers.read) <= 6
    assert not threads()


@pytest.mark.parametrize(
    ("cached", "workers", "wanted"), [(True, 0, AheadLoader), (True, 1, LateLoader), (False, 0, LateLoader)]
)
def test_cached_frames_without_processes_have_a_thread(
    cached: bool, workers: int, wanted: type[LateLoader], tmp_path: Path
) -> None:
    data = Custom(tmp_path, cache=tmp_path if cached else None, num_workers=workers)
    assert data._loader_class is wanted
