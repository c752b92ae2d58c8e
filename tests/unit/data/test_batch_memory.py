"""Memory of batches is used again when nobody holds a batch of it any more, and never before."""

from __future__ import annotations

import pickle

import torch
from torch import Tensor

from petl_bench.data.batch_memory import BatchMemory


def test_memory_is_used_again_once_it_is_let_go() -> None:
    memory = BatchMemory()
    first = memory.frames((2, 3))
    place = first.data_ptr()
    assert (first.shape, first.dtype) == ((2, 3), torch.uint8)
    del first
    assert memory.frames((2, 3)).data_ptr() == place


def test_whoever_holds_a_part_of_a_batch_keeps_its_memory() -> None:
    memory = BatchMemory()

    def held(batch: Tensor) -> list[object]:
        return [batch[1], batch.numpy(), batch.untyped_storage(), batch.view(torch.int8), batch.numpy().data]

    for place in range(5):
        batch = memory.frames((4, 8))
        where, part = batch.data_ptr(), held(batch)[place]
        del batch
        others = [memory.frames((4, 8)) for _ in range(4)]
        assert where not in {other.data_ptr() for other in others}
        del part, others
        assert where in {other.data_ptr() for other in [memory.frames((4, 8)) for _ in range(3)]}


def test_a_smaller_batch_takes_the_memory_of_a_larger_one_and_never_the_other_way() -> None:
    memory = BatchMemory()
    place = memory.frames((8,)).data_ptr()
    small = memory.frames((3,))
    assert small.data_ptr() == place
    assert memory.frames((8,)).shape == (8,)
    del small
    large = memory.frames((1000,))
    assert large.shape == (1000,)
    large.fill_(1)


def test_little_is_kept_of_many_batches() -> None:
    memory = BatchMemory()
    many = [memory.frames((64,)) for _ in range(20)]
    places = {batch.data_ptr() for batch in many}
    del many
    assert len(memory._free) == 3
    assert {memory.frames((64,)).data_ptr() for _ in range(9)} <= places


def test_copies_have_memory_of_their_own() -> None:
    memory = BatchMemory()
    memory.frames((1000,))
    sent = pickle.dumps(memory)
    assert len(sent) < 200
    assert pickle.loads(sent).frames((2,)).shape == (2,)
