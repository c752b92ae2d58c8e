"""Captions that are encoded for their similarities alone: the bank of QB-Norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import SplitTexts
from petl_bench.metrics.by_index import gather_on_cpu, to_cpu

#: captions that are encoded at once, however many processes share them: so all give the same bits
_BLOCK = 256


@torch.no_grad()
def encode_bank(
    backbone: Backbone, captions: list[str], texts: SplitTexts, chosen: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Features of captions (N, E) on the CPU; the processes share the work, and all of them must call it.

    Args:
        backbone: in evaluation mode.
        captions: N.
        texts: tokenises them.
        chosen: which of a caption's features are compared, `RetrievalMetric.of_captions`.
    """
    many = dist.is_available() and dist.is_initialized()
    world, rank = (dist.get_world_size(), dist.get_rank()) if many else (1, 0)
    device = next(backbone.parameters()).device
    starts = range(0, len(captions), _BLOCK)
    own = []
    for start in starts[rank::world]:
        words = texts.tokenize(captions[start : start + _BLOCK])
        text = backbone.encode_text(words.to(device))
        own.append((start, to_cpu(chosen(text.pooled, text.projected), torch.float32)))
    if not many:
        return torch.cat([features for _, features in own])
    index = torch.cat([torch.arange(start, start + len(f)) for start, f in own] or [torch.zeros(0, dtype=torch.long)])
    features = torch.cat([f for _, f in own] or [torch.zeros(0, backbone.embed_dim)])
    order = torch.cat(gather_on_cpu(index)).argsort()
    return torch.cat(gather_on_cpu(features))[order]
