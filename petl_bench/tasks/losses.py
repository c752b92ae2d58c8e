"""Losses over the global batch of all processes, with the gradient of one process that holds it all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from petl_bench.errors import DistributedError
from petl_bench.metrics.similarity import text_conditioned_cosine

#: what cross-entropy leaves out
_NO_TARGET = -100


def gather_with_grad(x: Tensor, sent_as: torch.dtype | None = None) -> Tensor:
    """Concatenates x (B, ...) of all processes in rank order: (W * B, ...); x itself with one process.

    The gradient of x is the sum over the processes of their gradients for it, as the chain rule has it. With
    losses averaged over processes (DDP), parameters get exactly the gradient of one process with the whole
    batch; gathers that return only the own slice give 1/W of it.

    Args:
        x: of this process.
        sent_as: a lower precision in which values are sent, for readers that would round them to it; the result and
            all gradients keep that of x.

    Raises:
        DistributedError: the processes hold different batch sizes.
    """
    if _world_size() == 1:
        return x
    _require_equal_batches(x)
    return _Gather.apply(x, sent_as or x.dtype)


def gather_index(x: Tensor) -> Tensor:
    """Concatenates x (B, ...) of all processes in rank order: (W * B, ...), without gradient.

    Raises:
        DistributedError: the processes hold different batch sizes.
    """
    if _world_size() == 1:
        return x
    _require_equal_batches(x)
    return _concatenate(x)


@contextmanager
def equal_batches() -> Iterator[None]:
    """Inside the block it is known that the processes have batches of one size: no gather asks, and waits, for that."""
    _Sizes.known, before = True, _Sizes.known
    try:
        yield
    finally:
        _Sizes.known = before


def contrastive_loss(text: Tensor, video: Tensor, logit_scale: Tensor, video_ids: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy of matching pairs over the global batch (CLIP; CLIP4Clip section 3.4).

    Every process computes its own B rows of the W*B x W*B logits, in at least fp32. The result is the local
    mean: the global loss is its mean over processes, which is also what DDP's gradient average makes of it.

    Args:
        text: L2-normalised features (B, E); text i belongs to video i.
        video: L2-normalised features (B, E).
        logit_scale: scalar that multiplies the cosines (already exponentiated).
        video_ids: integer id of each pair's video (B,). Pairs with the same id are left out of each other's
            negatives. None treats every other pair as a negative, as the papers do.

    Raises:
        DistributedError: the processes hold different batch sizes.
    """
    dtype = torch.promote_types(text.dtype, torch.float32)
    with torch.autocast(text.device.type, enabled=False):
        text, video, scale = text.to(dtype), video.to(dtype), logit_scale.to(dtype)
        texts, videos = gather_with_grad(torch.stack((text, video), dim=1)).unbind(1)  # (W * B, E) each
        own = torch.arange(len(text), device=text.device) + _rank() * len(text)
        ignored = None if video_ids is None else _same_video(video_ids, own)
        text_to_video = info_nce(text, videos, scale, own, ignored)
        video_to_text = info_nce(video, texts, scale, own, ignored)
        return (text_to_video + video_to_text) / 2


def text_conditioned_contrastive_loss(
    text: Tensor,
    frames: Tensor,
    mask: Tensor,
    temperature: float,
    logit_scale: Tensor,
    video_ids: Tensor | None = None,
) -> Tensor:
    """`contrastive_loss` of `text_conditioned_cosine` in the place of the cosine.

    Args:
        text: features before normalisation (B, E); text i belongs to video i.
        frames: frame features before normalisation (B, T, E), with the same T in all processes.
        mask: (B, T) bool, True where a frame is real.
        temperature: of the softmax over frames.
        logit_scale: scalar that multiplies the cosines (already exponentiated).
        video_ids: see `contrastive_loss`.

    Raises:
        DistributedError: the processes hold different batch sizes.
    """
    dtype = torch.promote_types(text.dtype, torch.float32)
    with torch.autocast(text.device.type, enabled=False):
        text, frames, scale = text.to(dtype), frames.to(dtype), logit_scale.to(dtype)
        own = torch.arange(len(text), device=text.device) + _rank() * len(text)
        ignored = None if video_ids is None else _same_video(video_ids, own)
        everything = gather_with_grad(frames), gather_index(mask)
        text_to_video = scale * text_conditioned_cosine(text, *everything, temperature)  # (B, W * B)
        video_to_text = scale * text_conditioned_cosine(gather_with_grad(text), frames, mask, temperature).T
        return (_cross_entropy(text_to_video, own, ignored) + _cross_entropy(video_to_text, own, ignored)) / 2


def info_nce(
    query: Tensor, gallery: Tensor, logit_scale: Tensor, positive: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of each query's positive against the gallery.

    Args:
        query: (B, E).
        gallery: (G, E).
        logit_scale: scalar that multiplies the dot products.
        positive: gallery row of each query's positive (B,).
        ignored: gallery items that are no negatives of a query (B, G); the positive must not be among them.
    """
    return _cross_entropy(logit_scale * query @ gallery.T, positive, ignored)


def momentum_contrastive_loss(
    query: Tensor, slow_query: Tensor, gallery: Tensor, positives: Tensor, logit_scale: Tensor, alpha: float
) -> Tensor:
    """Mean cross-entropy of queries against slow features of a batch and a queue, with soft targets.

    targets = alpha * softmax(scale * slow_query gallery^T) + (1 - alpha) * positives / (positives of the query).

    Source: ALBEF (Li et al., arXiv 2107.07651), section 3.3, and BLIP (arXiv 2201.12086).

    Args:
        query: (B, E).
        slow_query: the same samples as the momentum encoder sees them (B, E).
        gallery: of the other modality, from the momentum encoder (G, E).
        positives: (B, G) bool, True where a gallery item shows what the query does; at least one per query.
        logit_scale: scalar that multiplies the cosines (already exponentiated).
        alpha: share of the momentum encoder's predictions in the targets.
    """
    with torch.no_grad():
        soft_targets = (logit_scale * slow_query @ gallery.T).softmax(dim=1)
        targets = alpha * soft_targets + (1 - alpha) * positives / positives.sum(dim=1, keepdim=True)
    return F.cross_entropy(logit_scale * query @ gallery.T, targets)


def hard_negatives(logits: Tensor, same: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one negative for each query with probability softmax(logits) over all but its own positives.

    Args:
        logits: (B, C).
        same: (B, C) bool, True where a candidate is no negative.
        noise: standard Gumbel noise (B, C), which makes the largest sum a draw from the softmax.

    Returns:
        Candidates (B,) and whether there is a negative at all (B,).
    """
    return (logits + noise).masked_fill(same, -torch.inf).argmax(dim=1), ~same.all(dim=1)


def answer_losses(logits: Tensor, ids: Tensor, mask: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of each answer's tokens after the first, summed: (A,), computed in at least fp32.

    Source: BLIP (Li et al., arXiv 2201.12086), `models/blip_vqa.py` of its official code.

    Args:
        logits: of the token after each one, (A, n, V).
        ids: (A, n).
        mask: (A, n) bool, True for tokens; padding adds nothing.
        label_smoothing: share of the target that is spread evenly over the vocabulary.
    """
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    targets = ids.masked_fill(~mask, _NO_TARGET)[:, 1:]
    losses = F.cross_entropy(logits.mT, targets, reduction="none", label_smoothing=label_smoothing)  # (A, n - 1)
    return losses.sum(dim=1)


def own_rows(count: int) -> slice:
    """The rows of this process in a global batch to which each process adds `count`."""
    return slice(_rank() * count, (_rank() + 1) * count)


def _cross_entropy(logits: Tensor, positive: Tensor, ignored: Tensor | None) -> Tensor:
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(logits, positive)


def _same_video(video_ids: Tensor, own: Tensor) -> Tensor:
    """Other pairs of the global batch that show the same video as a local pair (B, W * B)."""
    same = video_ids[:, None] == gather_index(video_ids)[None, :]
    return same.scatter(1, own[:, None], False)


class _Gather(torch.autograd.Function):
    # torch.distributed.nn.functional.all_gather is deprecated and its successor is younger than torch 2.9.
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent_as: torch.dtype) -> Tensor:
        return _concatenate(x.to(sent_as)).to(x.dtype)

    @staticmethod
    @once_differentiable  # whose types lose the names of arguments
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Reduce-scatter would send less, but not every backend has it and these are a few megabytes.
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()], None


def _concatenate(x: Tensor) -> Tensor:
    gathered = x.new_empty((_world_size() * len(x), *x.shape[1:]))
    dist.all_gather_into_tensor(gathered, x.contiguous())
    return gathered


class _Sizes:
    """Whether batches of all processes are known to have one size."""

    known = False


def _require_equal_batches(x: Tensor) -> None:
    # Collectives on unequal shapes hang or return garbage, so the sizes are compared first.
    if _Sizes.known:
        return
    sizes = _concatenate(torch.full((1,), len(x), device=x.device)).tolist()
    if len(set(sizes)) > 1:
        raise DistributedError(f"batch sizes differ between processes: {sizes}; drop the last partial batch")


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _world_size() > 1 else 0
