"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

#: what is recomputed: whole blocks (true), or of each block the activation of its feed-forward branch alone
Recomputation = bool | Literal["activations"]

#: who is told what is kept for a recomputation, see `watching`
_watchers: list[Callable[[Tensor], object]] = []


def recomputed(function: Callable[..., T], *args: object) -> T:
    """`function(*args)`, of which only the arguments are kept for the backward pass.

    It is called a second time there, with the same random state and under the same autocast.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    for tensor in (argument for argument in args if isinstance(argument, Tensor)):
        for watcher in _watchers:
            watcher(tensor)
    return checkpoint(function, *args, use_reentrant=False)  # type: ignore[return-value]  # untyped in torch


@contextmanager
def watching(watcher: Callable[[Tensor], object]) -> Iterator[None]:
    """Inside the block the watcher is called with each tensor that is kept for a recomputation.

    Autograd's own hooks do not see these.
    """
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
