"""Tensors that are put aside and read again: in memory up to a size, beyond it in a temporary file."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from typing import IO, NamedTuple

import torch
from torch import Tensor

from petl_bench.errors import StorageError


class OnDisk(NamedTuple):
    """Where a tensor is in the file."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


class Spill:
    """Takes tensors of the CPU until so many bytes are in memory, and writes further ones to a file.

    The file is in the folder of temporary files (TMPDIR). It has no name, so that nothing of it is left when the
    process ends, however it does.

    Args:
        bytes_in_memory: of all tensors together.
        advice: what else to do where the disk is full, for messages.
    """

    def __init__(self, bytes_in_memory: float, advice: str) -> None:
        self._left, self._all = bytes_in_memory, bytes_in_memory
        self._advice = advice
        self._file: IO[bytes] | None = None

    def put(self, tensor: Tensor) -> Tensor | OnDisk:
        """What `get` gives the tensor for: itself, or its place in the file.

        Raises:
            StorageError: the disk is full, or fails.
        """
        if tensor.nbytes <= self._left:
            self._left -= tensor.nbytes
            return tensor
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, prefix="petl_bench_")  # noqa: SIM115  # until `clear`
            offset = self._file.seek(0, os.SEEK_END)
            rest = _bytes_of(tensor.contiguous())
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failed(error) from error
        return OnDisk(offset, tensor.shape, tensor.dtype)

    def fitting(self, nbytes: int, count: int) -> int:
        """How many of `count` tensors of so many bytes each an empty spill keeps in memory."""
        return count if nbytes == 0 else min(count, int(self._all // nbytes))

    def get(self, kept: Tensor | OnDisk) -> Tensor:
        """A tensor that was put.

        Raises:
            StorageError: the disk fails.
        """
        if isinstance(kept, Tensor):
            return kept
        assert self._file is not None, "it was put before `clear`"
        tensor = torch.empty(kept.shape, dtype=kept.dtype)
        try:
            self._file.seek(kept.offset)
            rest = _bytes_of(tensor)
            while rest:
                count = self._file.readinto(rest)  # type: ignore[attr-defined]  # an unbuffered file has it
                if not count:
                    raise OSError(errno.EIO, "it is shorter than what was written")
                rest = rest[count:]
        except OSError as error:
            raise self._failed(error) from error
        return tensor

    def clear(self) -> None:
        """Forgets all that was put."""
        self._left = self._all
        if self._file is not None:
            with suppress(OSError):  # nothing in it is wanted any more
                self._file.close()
        self._file = None

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"{tempfile.gettempdir()}: what does not fit into memory cannot be kept there ({error.strerror}): set "
            f"TMPDIR to a folder with more room, or {self._advice}"
        )


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data
