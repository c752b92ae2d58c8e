"""Backbones for tests of methods."""

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.clip.model import CLIP
from petl_bench.method import Method
from tests.inputs import clips_of


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


def token_schedule(method: Method, frames: int) -> list[tuple[int, int, int]]:
    """(clips, tokens at the attention, tokens at the feed-forward layers) of each vision block, as one video runs."""
    backbone, read = method.backbone, list[Tensor]()
    blocks = backbone.towers["vision"].blocks
    handles = []
    for block in blocks:
        first = next(layer for layer in block.mlp.modules() if isinstance(layer, nn.Linear))
        for layer in (block.attention.qkv, first):
            handles.append(layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])))
    size, device = backbone.spec.image_size, backbone.logit_scale.device
    pixels = torch.zeros(1, frames, 3, size, size, device=device)
    with torch.device(device), torch.no_grad():
        backbone.encode_video_tokens(clips_of(pixels, torch.ones(1, frames).bool()))
    for handle in handles:
        handle.remove()
    shapes = [(x.shape[0], x.shape[1]) for x in read]
    return [(a[0], a[1], m[1]) for a, m in zip(shapes[::2], shapes[1::2], strict=True)]


class UnevenCLIP(CLIP):
    """The tiny CLIP with its last text block removed, so that its towers differ in depth as well as in width."""

    def __init__(self) -> None:
        super().__init__("tiny", None)
        del self.text.stack[-1]
