"""Slowly moving copies of what is trained, and queues of the features they gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from petl_bench.errors import UsageError

_torch: Any = torch  # type checkers do not see the `_foreach_` operations, which torch's documentation lists


class MomentumCopy(nn.Module):
    """Moving averages of parameters, and a module computed with them in the place of its own.

    What is frozen equals its average, so a copy of what is trained does all that a second whole model would, in a
    fraction of the memory. The averages are buffers: a resumed run needs them, an evaluation does not.

    Source: MoCo (He et al., arXiv 1911.05722), as ALBEF (arXiv 2107.07651) and BLIP (arXiv 2201.12086) use it.

    Args:
        parameters: by their names in the module; the averages start from their values.
        momentum: m of `average = m * average + (1 - m) * parameter`.
    """

    def __init__(self, parameters: Mapping[str, Tensor], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self._places: dict[str, str] | None = None
        for name, parameter in parameters.items():
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())  # no dots in names of buffers

    @property
    def averages(self) -> dict[str, Tensor]:
        """By the names of the parameters."""
        return {name.replace("/", "."): buffer for name, buffer in self.named_buffers()}

    @torch.no_grad()
    def update(self, module: nn.Module, times: Mapping[str, int] | None = None) -> None:
        """Moves the averages towards the module's parameters, once or as often as `times` says."""
        averages, times = self.averages, times or {}
        parameters = {name: module.get_parameter(name) for name in averages}
        for turn in range(max([1, *times.values()])):
            moved = [name for name in averages if turn < times.get(name, 1)]
            towards = [parameters[name] for name in moved]
            _torch._foreach_lerp_([averages[name] for name in moved], towards, 1 - self.momentum)

    @torch.no_grad()
    def call(self, module: nn.Module, *args: Any) -> Any:
        """What `module(*args)` gives with the averages as its parameters, without gradient.

        Where they stand in it is looked up once: it must be the same module each time, or one that is built alike.
        """
        if self._places is None:
            self._places = _places(module, self.averages)
        averages = self.averages
        replaced = {place: averages[name] for place, name in self._places.items()}
        return functional_call(module, replaced, args, tie_weights=False)


def _places(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Every place of some parameters, which may be shared, and their names; a shared module has one place.

    `functional_call` finds places by names, and does not put back what it replaced in one module under two names.
    """
    known = {id(module.get_parameter(name)): name for name in names}
    return {
        f"{path}.{key}".removeprefix("."): known[id(parameter)]
        for path, owner in module.named_modules()
        for key, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
        if id(parameter) in known
    }


class FeatureQueue(nn.Module):
    """The latest features of videos and texts, from which a contrastive loss takes more negatives than a batch has.

    Starts with random directions, as in BLIP. Every process holds the same queue.

    Args:
        size: Q.
        width: E.

    Attributes:
        video: (Q, E), L2-normalised.
        text: (Q, E), L2-normalised.
        video_index: (Q,) the video that each entry belongs to; -100 where nothing was put in yet.
        position: scalar, the entry that is replaced next.
    """

    #: belongs to no video
    NOBODY = -100
    video: Tensor
    text: Tensor
    video_index: Tensor
    position: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the same in all processes, and no draw from the global generator
            torch.manual_seed(0)
            for name in ("video", "text"):
                self.register_buffer(name, nn.functional.normalize(torch.randn(size, width), dim=-1))
        self.register_buffer("video_index", torch.full((size,), self.NOBODY))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, video: Tensor, text: Tensor, video_index: Tensor) -> None:
        """Replaces the oldest entries by those of a global batch: features (G, E), and the video of each pair (G,).

        Raises:
            UsageError: if the batch is larger than the queue.
        """
        size, count = len(self.video_index), len(video_index)
        if count > size:
            raise UsageError(f"task.queue_size is {size}: it must hold at least one global batch, which is {count}")
        rows = (self.position + torch.arange(count, device=self.position.device)) % size
        self.video[rows] = video.to(self.video.dtype)
        self.text[rows] = text.to(self.text.dtype)
        self.video_index[rows] = video_index
        self.position.add_(count).remainder_(size)
