"""What the processes of a training tell each other of every step: with one collective, and one wait for a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from petl_bench.tasks.losses import equal_batches, gather_index


class Told(NamedTuple):
    """What is known of a step.

    Attributes:
        losses: of all processes, by rank.
        signal: the greatest number of a signal to any of them; 0 if none came.
    """

    losses: list[float]
    signal: int

    @property
    def loss(self) -> float:
        """Of the global batch."""
        return sum(self.losses) / len(self.losses)


class StepReport:
    """Asks all processes what there is to be told of a step; every process makes one, at the same place.

    To be made before the backward pass is asked for, and read after that: the CPU waits until the GPU has come to this
    place, and no longer, so that the GPU goes on meanwhile.

    Args:
        loss: of this process, a scalar.
        signal: number of the signal to this process; 0 if none came.
    """

    def __init__(self, loss: Tensor, signal: int) -> None:
        loss = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))
        with equal_batches():
            self._told = gather_index(torch.stack([loss, torch.full_like(loss, signal)])[None])  # (W, 2)
        self._copied: torch.cuda.Event | None = None
        if loss.device.type == "cuda":
            self._told = self._told.to("cpu", non_blocking=True)  # into pinned memory
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> Told:
        """Waits for the answers."""
        if self._copied is not None:
            self._copied.synchronize()
        losses, signals = self._told.unbind(1)
        return Told(losses.tolist(), int(max(signals.tolist())))
