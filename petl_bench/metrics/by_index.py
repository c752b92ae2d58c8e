"""What metrics keyed by sample index share: gathering without padding, and each index exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from petl_bench.errors import DistributedError


def gather_on_cpu(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all processes.

    torchmetrics' own gather needs tensors on the accelerator under NCCL, and fails when a process has no
    sample (its stand-in has another shape and dtype). Gathering objects takes CPU tensors with any backend.
    """
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, tensor.cpu(), group=group)
    return [shard for shard in gathered if len(shard)] or gathered[:1]


def to_cpu(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy, since the caller may reuse its buffer, and a view would be sent with all of its storage."""
    return values.detach().to(device="cpu", dtype=dtype, copy=True)


def sorting_permutation(index: Tensor, expected: int | None, what: str) -> Tensor:
    """The permutation that sorts `index` (N,), which has to hold each of 0..n-1 exactly once.

    Args:
        index: sample indices of all processes together.
        expected: n, or None for one more than the largest index.
        what: the kind of sample, for messages.

    Raises:
        DistributedError: an index is missing, foreign, or occurs more than once.
    """
    index = index.cpu()
    size = int(index.max()) + 1 if expected is None else expected
    foreign = index[(index < 0) | (index >= size)]
    if len(foreign):
        raise DistributedError(f"{what} index {listed(foreign)} is not in 0..{size - 1}; check the data module")
    counts = torch.bincount(index, minlength=size)
    duplicates = torch.nonzero(counts > 1).flatten()
    if len(duplicates):
        raise DistributedError(
            f"{what} index {listed(duplicates)} was evaluated more than once; use a sampler that does not pad"
        )
    missing = torch.nonzero(counts == 0).flatten()
    if len(missing):
        raise DistributedError(
            f"{what} index {listed(missing)} of {size} was not evaluated; use a sampler that drops nothing"
        )
    return torch.argsort(index)


def in_order(values: Tensor | list[Tensor], index: Tensor | list[Tensor]) -> Tensor:
    """Values of samples (N, ...) in the order of their index, which holds each of 0..N-1 once: on the CPU, in one copy.

    Args:
        values: as they came, in one piece (N, ...) or several.
        index: of the samples, in as many pieces.
    """
    pieces, places = ([given] if isinstance(given, Tensor) else given for given in (values, index))
    ordered = torch.empty(sum(map(len, pieces)), *pieces[0].shape[1:], dtype=pieces[0].dtype)
    for piece, place in zip(pieces, places, strict=True):
        ordered.index_copy_(0, place.cpu(), piece.cpu())
    return ordered


def texts_to_bytes(texts: Sequence[str]) -> Tensor:
    """Texts as uint8 (bytes,), each ended by a zero: torchmetrics gathers tensors only."""
    return torch.tensor(list("".join(text.replace("\0", " ") + "\0" for text in texts).encode()), dtype=torch.uint8)


def texts_in_order(texts: Tensor, order: Tensor) -> np.ndarray:
    """Texts of all processes from their bytes, in the order of samples: (N,)."""
    every = bytes(texts.cpu().numpy()).decode().split("\0")
    return np.array([every[place] for place in order.tolist()])


def listed(indices: Tensor, limit: int = 5) -> str:
    """The first few of some indices (N,), and how many there are, for messages."""
    shown = ", ".join(map(str, indices[:limit].tolist()))
    return shown if len(indices) <= limit else f"{shown}, ... ({len(indices)} in all)"
