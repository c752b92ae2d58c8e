"""Similarities of captions and videos that are more than a product of two vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def text_conditioned_cosine(text: Tensor, frames: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Cosine of each caption with each video, whose frames are weighted by their likeness to that caption.

    The weights are softmax over the real frames of <t, f> / temperature, of features before normalisation. The
    weighted mean p of a pair is never built: <t, p> and |p|^2 follow from <t, f> and the frames' Gram matrix.

    Source: Cross-Modal Adapter (Jiang et al., arXiv 2211.09623), `q_score` of its official code.

    Args:
        text: caption features (M, E).
        frames: frame features (V, T, E).
        mask: (V, T) bool, True where a frame is real; a video without any gives NaN.
        temperature: divides the products.

    Returns:
        (M, V).
    """
    frames = frames.masked_fill(~mask[..., None], 0)
    products = torch.einsum("me,vte->mvt", text, frames)
    weights = (products / temperature).masked_fill(~mask, -torch.inf).softmax(-1)
    gram = frames @ frames.mT  # (V, T, T)
    length = (torch.einsum("mvt,vts->mvs", weights, gram) * weights).sum(-1).clamp(min=1e-12).sqrt()
    return (products * weights).sum(-1) / (length * text.norm(dim=-1, keepdim=True).clamp(min=1e-12))
