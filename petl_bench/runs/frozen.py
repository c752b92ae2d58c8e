"""Frozen weights in the precision in which a training step reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from petl_bench.method import Method
from petl_bench.nn.transformer import Tower

#: of layers that read their weight under autocast and nowhere else
_CAST = (nn.Linear.forward, nn.Conv2d.forward)


class HeldWeights:
    """Frozen weights of a method's towers in a lower precision, until they are put back.

    A layer under autocast casts its fp32 weight in each step, and keeps the copy for the backward pass. Of a frozen
    weight nothing else is ever read, so that losses and gradients of a weight that is held are equal to the last bit.
    These are the weights of the backbone's linear layers and convolutions in the blocks, and of the patch embedding,
    but for those that anything else holds, too: a layer that is trained, an embedding, a head that computes in fp32.

    Args:
        method: adapted, on the device where it is trained. Until `put_back` its code runs under autocast to `dtype`.
        dtype: what autocast casts to.
    """

    def __init__(self, method: Method, dtype: torch.dtype) -> None:
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        for weight in _frozen_weights(method):
            self._kept.append((weight, weight.data.cpu()))  # on a CPU the same storage
            weight.data = weight.data.to(dtype)

    def __len__(self) -> int:
        return len(self._kept)

    def put_back(self, device: torch.device | None = None) -> None:
        """Gives the weights their own values again, equal to the last bit.

        Args:
            device: where to; None for where they are.
        """
        while self._kept:
            weight, values = self._kept.pop()
            weight.data = values.to(weight.device if device is None else device)


def _frozen_weights(method: Method) -> list[nn.Parameter]:
    pretrained = {id(parameter) for parameter in method.pretrained_parameters()}
    layers = {id(layer) for tower in method.backbone.towers.values() for layer in _layers(tower)}
    found: dict[int, nn.Parameter] = {}
    read_elsewhere: set[int] = set()
    for module in method.modules():
        for name, tensor in _tensors_of(module):
            frozen = not tensor.requires_grad and tensor.dtype == torch.float32 and id(tensor) in pretrained
            if isinstance(tensor, nn.Parameter) and frozen and name == "weight" and id(module) in layers:
                found[id(tensor)] = tensor
            else:
                read_elsewhere.add(_storage(tensor))
    return [weight for weight in found.values() if _storage(weight) not in read_elsewhere]


def _layers(tower: Tower) -> Iterator[nn.Module]:
    """The linear layers and convolutions inside the blocks, and the patch embedding."""
    inside = (layer for block in tower.stack for layer in block.modules())
    yield from (layer for layer in inside if type(layer).forward in _CAST)
    yield from (layer for layer in tower.children() if type(layer).forward is nn.Conv2d.forward)


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module itself, also those that another one has, too."""
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)  # of one without memory on this device, itself


class FrozenInBf16(Callback):
    """Holds frozen weights in bf16 while a method is trained in `bf16-mixed`, and puts them back when that ends."""

    def __init__(self) -> None:
        self._held: HeldWeights | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method), "this suite trains methods only"
        if trainer.precision == "bf16-mixed" and self._held is None:
            self._held = HeldWeights(pl_module, torch.bfloat16)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._put_back(None)

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        self._put_back(torch.device("cpu"))  # where Lightning moves the model then; a full GPU has no room for them

    def _put_back(self, device: torch.device | None) -> None:
        if self._held is not None:
            self._held.put_back(device)
        self._held = None
