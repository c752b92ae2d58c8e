"""Memory of batches that is used again: making it anew costs as much as reading cached frames into it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch

#: pieces that are kept while nobody uses them: of the batch that is trained on, the one ahead, and one in between
_KEPT = 3


class BatchMemory:
    """Gives memory for frames, and takes it back once the last tensor that lies there is gone, whoever held it.

    The kernel clears each page of 4 KiB that a process has not touched before, which reading into it does again.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return BatchMemory, ()  # a copy, and a process to which this is sent, have memory of their own

    def frames(self, shape: Sequence[int]) -> torch.Tensor:
        """Frames with whatever was there before.

        Args:
            shape: of the result, uint8.
        """
        size = math.prod(shape)
        memory = self._taken(size)
        lent = memory[:size]  # an object of its own, which lives as long as the tensor's storage
        weakref.finalize(lent, self._give_back, memory).atexit = False
        return torch.from_numpy(lent).view(*shape)

    def _taken(self, size: int) -> np.ndarray:
        while self._free:
            memory = self._free.pop()
            if len(memory) >= size:
                return memory
        return np.empty(size, np.uint8)

    def _give_back(self, memory: np.ndarray) -> None:
        if len(self._free) < _KEPT:
            self._free.append(memory)
