"""Backbones for tests of methods."""

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.clip import CLIP
from petl_bench.method import Method


def noise(backbone: Backbone, clips: int, frames: int, seed: int = 0) -> Tensor:
    """Random pixels, uint8 (B, T, 3, H, W)."""
    size, generator = backbone.spec.image_size, torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8, generator=generator)


def meta_clip(architecture: str) -> CLIP:
    """A CLIP of full size on the meta device: shapes and parameter counts without memory or time."""
    with torch.device("meta"):
        return CLIP(architecture, None)


def adapt_on_meta(method: Method) -> Method:
    """Injects a method into a `meta_clip`, with its own modules on the meta device too."""
    with torch.device("meta"):
        return method.adapt()


class UnevenCLIP(CLIP):
    """The tiny CLIP with its last text block removed, so that its towers differ in depth as well as in width."""

    def __init__(self) -> None:
        super().__init__("tiny", None)
        del self.text.stack[-1]
