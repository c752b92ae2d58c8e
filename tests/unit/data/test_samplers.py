"""Which rows a process reads: the same global batches for any number of processes, each row once."""

from __future__ import annotations

import pytest

from petl_bench.data.samplers import EpochBatches, UnpaddedShard

Key = tuple[int, int]


def epoch_batches(rows: int, batch_size: int, seed: int = 0, epoch: int = 0, world: int = 1) -> list[list[Key]]:
    """Global batches, put together from those of all processes in the order of ranks."""
    ranks = [EpochBatches(rows, batch_size, seed, rank, world) for rank in range(world)]
    for batches in ranks:
        batches.set_epoch(epoch)
    return [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world", [2, 3, 4, 12])
def test_global_batches_do_not_depend_on_the_number_of_processes(world: int) -> None:
    assert epoch_batches(100, 12, world=world) == epoch_batches(100, 12)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_a_batch_equally(world: int) -> None:
    for rank in range(world):
        assert {len(batch) for batch in EpochBatches(50, 8, 0, rank, world)} == {8 // world}


@pytest.mark.parametrize(("rows", "batch_size", "batches"), [(96, 12, 8), (100, 12, 8), (12, 12, 1), (13, 1, 13)])
def test_each_row_at_most_once_and_the_incomplete_batch_is_dropped(rows: int, batch_size: int, batches: int) -> None:
    found = epoch_batches(rows, batch_size)
    seen = [row for batch in found for _, row in batch]
    assert len(found) == len(EpochBatches(rows, batch_size, 0, 0, 1)) == batches
    assert len(seen) == len(set(seen)) == batches * batch_size
    assert set(seen) <= set(range(rows))
    assert {len(batch) for batch in found} == {batch_size}


def test_another_epoch_drops_other_rows() -> None:
    dropped = [set(range(100)) - {row for batch in epoch_batches(100, 12, epoch=e) for _, row in batch} for e in (0, 1)]
    assert len(dropped[0]) == 4
    assert dropped[0] != dropped[1]


def test_order_follows_from_seed_and_epoch() -> None:
    assert epoch_batches(40, 4, seed=3, epoch=2) == epoch_batches(40, 4, seed=3, epoch=2)
    orders = {
        tuple(row for batch in epoch_batches(40, 4, seed, epoch) for _, row in batch)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert tuple(range(40)) not in orders


def test_keys_carry_the_epoch() -> None:
    assert {epoch for batch in epoch_batches(12, 4, epoch=7) for epoch, _ in batch} == {7}


def test_iterating_twice_gives_the_same() -> None:
    batches = EpochBatches(20, 4, 0, 0, 1)
    assert list(batches) == list(batches)


@pytest.mark.parametrize("rows", [1, 7, 1003])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_reads_each_row_once(rows: int, world: int) -> None:
    shards = [UnpaddedShard(rows, rank, world) for rank in range(world)]
    seen = [list(shard) for shard in shards]
    assert sorted(row for part in seen for row in part) == list(range(rows))
    assert [len(shard) for shard in shards] == [len(part) for part in seen]
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
