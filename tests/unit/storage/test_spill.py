"""Tensors beyond a size lie in a file without a name, and come back as they were."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_bench.errors import StorageError
from petl_bench.storage.spill import OnDisk, Spill


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def some(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(1, 5, 4).to(dtype) + number for number in range(4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_does_not_fit_into_memory_comes_back_from_the_file(dtype: torch.dtype, folder: Path) -> None:
    tensors, spill = some(dtype), Spill(45 * dtype.itemsize, "nothing")
    kept = [spill.put(tensor) for tensor in tensors]
    assert [isinstance(one, OnDisk) for one in kept] == [False, False, True, True]
    for one, tensor in reversed(list(zip(kept, tensors, strict=True))):
        assert spill.get(one).equal(tensor)
    assert not list(folder.iterdir())


def test_a_part_of_a_larger_tensor_is_written_alone(folder: Path) -> None:
    whole, spill = torch.randn(3, 4, 2), Spill(0, "nothing")
    kept = [spill.put(whole[:, row : row + 1]) for row in range(4)]
    assert [one.offset for one in kept if isinstance(one, OnDisk)] == [0, 24, 48, 72]
    assert torch.cat([spill.get(one) for one in kept], dim=1).equal(whole)


def test_after_clear_there_is_room_again(folder: Path) -> None:
    (first, *_), spill = some(torch.float32), Spill(80, "nothing")
    assert [isinstance(spill.put(first), Tensor) for _ in range(2)] == [True, False]
    spill.clear()
    assert [isinstance(spill.put(first), Tensor) for _ in range(2)] == [True, False]


def test_a_full_disk_is_named_with_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: Any) -> Any:
        return Path("/dev/full").open("w+b", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    spill = Spill(0, "raise tokens_in_memory")
    with pytest.raises(StorageError, match=rf"{folder}: .*No space left on device.*TMPDIR.*or raise tokens_in_memory"):
        spill.put(torch.ones(3))


def test_a_file_that_was_cut_is_an_error(folder: Path) -> None:
    spill = Spill(0, "nothing")
    kept = spill.put(torch.ones(3))
    assert spill._file is not None
    spill._file.truncate(5)
    with pytest.raises(StorageError, match="shorter than what was written"):
        spill.get(kept)
