"""Clips and memories of tensors, as the tests have them."""

from __future__ import annotations

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.inputs import Clips
from petl_bench.nn.transformer import Memory
from petl_bench.testing.samples import asked


def clips_of(frames: Tensor, mask: Tensor | None = None) -> Clips:
    """Clips of frames (B, T, 3, H, W), a second apart; all of them are real where there is no mask."""
    mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device) if mask is None else mask
    times = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return Clips(frames, mask, times.float() * mask)


def tokens_of(backbone: Backbone, clips: Clips) -> Tensor:
    """All tokens by frame, (B, T, L, D)."""
    return backbone.encode_video_tokens(clips).memory.tokens.unflatten(1, (clips.mask.shape[1], -1))


def memory_of(tokens: Tensor, mask: Tensor, key_scale: Tensor | None = None) -> Memory:
    """What text reads: tokens (B, T, L, D), mask (B, T), factors on keys (B, T, L)."""
    readable = mask[:, :, None].expand(tokens.shape[:3]).flatten(1)
    return Memory(tokens.flatten(1, 2), readable, None if key_scale is None else key_scale.flatten(1))


def with_frames(batch: Batch, frames: Tensor) -> Batch:
    """The batch with other pixels."""
    return batch._replace(clips=batch.clips._replace(frames=frames))


def with_mask(batch: Batch, mask: Tensor) -> Batch:
    """The batch with other frames that are real."""
    return batch._replace(clips=batch.clips._replace(mask=mask))


def about_other_clips(batch: Batch) -> Batch:
    """The batch with its captions as questions about clips in another order; one has two, another one none."""
    return asked(batch)._replace(text_video=batch.video_index[[2, 0, 2, 1]])
