"""Similarities of captions and videos as blocks, so that no dense matrix is ever needed; finite, in full precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petl_bench.errors import NonFiniteError
from petl_bench.metrics.by_index import listed
from petl_bench.metrics.similarity import text_conditioned_cosine

Rows = Callable[[int, int], Tensor]
Tiles = Callable[[Tensor], Callable[[slice], Tensor]]
"""Captions (C,) -> videos (D of them) -> their similarities (C, D)"""

#: captions and videos of a tile of products, at most
SIDE = 1024
#: the same of similarities of frames, which need several numbers for each frame
SIDE_OF_FRAMES = 512


class Scores(NamedTuple):
    """Similarities of M captions and V videos, as blocks that the receiver may overwrite.

    Attributes:
        text_rows: (start, stop) -> (stop - start, V) of these captions, failed videos at -inf.
        video_rows: (start, stop) -> (stop - start, M) of these videos, failed ones at 0.
        texts: M.
        failed: (V,) bool, videos without a feature.
        tiles: similarities of any captions with a range of videos, failed ones at -inf, for both directions at once;
            None where captions score videos otherwise than videos score captions.
        side: captions and videos of a tile, at most.
    """

    text_rows: Rows
    video_rows: Rows
    texts: int
    failed: Tensor
    tiles: Tiles | None = None
    side: int = SIDE


def scores_of_features(text: Tensor, video: Tensor, failed: Tensor | None = None) -> Scores:
    """Dot products in fp32.

    Args:
        text: caption features (M, E).
        video: video features (V, E); rows of failed videos are ignored.
        failed: videos without a feature (V,).

    Raises:
        NonFiniteError: a feature is NaN or infinite; a similarity, when its block is asked for.
    """
    failed = _failed(failed, len(video), video.device)
    video = video.float()  # (V, E)
    video = video.masked_fill(failed[:, None], 0) if failed.any() else video
    text = text.float()  # (M, E)
    largest = require_finite(text, "caption features"), require_finite(video, "video features")
    # No sum of products can overflow where even the largest features cannot: then no tile needs a look.
    bounded = math.prod(largest) * text.shape[1] < torch.finfo(torch.float32).max / 2

    def text_rows(start: int, stop: int) -> Tensor:
        scores = text[start:stop] @ video.T
        require_finite(scores, "similarities of captions", start)
        return scores.masked_fill_(failed, -torch.inf)

    def video_rows(start: int, stop: int) -> Tensor:
        scores = video[start:stop] @ text.T
        require_finite(scores, "similarities of videos", start)
        return scores

    def tiles(texts: Tensor) -> Callable[[slice], Tensor]:
        some = text[texts]
        return lambda videos: _tile(some @ video[videos].T, texts, failed[videos], bounded)

    return Scores(text_rows, video_rows, len(text), failed, tiles)


def scores_of_frames(
    text: Tensor, frames: Tensor, mask: Tensor, temperature: float, failed: Tensor | None = None
) -> Scores:
    """`text_conditioned_cosine` of captions (M, E) and frames (V, T, E) with their mask (V, T); else as above.

    Equal to the bit in whatever order the frames of a video come.
    """
    failed = _failed(failed, len(frames), frames.device)
    mask = mask | failed[:, None]  # so that a failed video has frames to take the softmax over: zeros
    frames = frames.float().masked_fill((failed[:, None] | ~mask)[..., None], 0)  # (V, T, E)
    text = text.float()  # (M, E)
    require_finite(text, "caption features")
    require_finite(frames.flatten(1), "video features")
    frames, mask = in_one_order(frames, mask)

    def text_rows(start: int, stop: int) -> Tensor:
        scores = text_conditioned_cosine(text[start:stop], frames, mask, temperature)
        require_finite(scores, "similarities of captions", start)
        return scores.masked_fill_(failed, -torch.inf)

    def video_rows(start: int, stop: int) -> Tensor:
        scores = text_conditioned_cosine(text, frames[start:stop], mask[start:stop], temperature).T.contiguous()
        require_finite(scores, "similarities of videos", start)
        return scores

    def tiles(texts: Tensor) -> Callable[[slice], Tensor]:
        some = text[texts]

        def of(videos: slice) -> Tensor:
            scores = text_conditioned_cosine(some, frames[videos], mask[videos], temperature)
            return _tile(scores, texts, failed[videos])

        return of

    return Scores(text_rows, video_rows, len(text), failed, tiles, SIDE_OF_FRAMES)


def in_one_order(frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (V, T, E) and mask (V, T), the frames of each video by their first component and not by time.

    Sums over them would be rounded otherwise, and a clip and its reverse would not tie.
    """
    order = frames[..., 0].masked_fill(~mask, torch.inf).argsort(dim=1)  # (V, T)
    return frames.take_along_dim(order[..., None], 1), mask.take_along_dim(order, 1)


def scores_of_matrix(similarity: Tensor, failed: Tensor | None = None) -> Scores:
    """Given similarities (M, V), such as those of a re-ranker."""
    failed = _failed(failed, similarity.shape[1], similarity.device)
    require_finite(similarity[:, ~failed] if failed.any() else similarity, "similarities of captions")

    def text_rows(start: int, stop: int) -> Tensor:
        return similarity[start:stop].float().masked_fill(failed, -torch.inf)

    def video_rows(start: int, stop: int) -> Tensor:
        columns = similarity[:, start:stop].T.float().contiguous()
        return columns.masked_fill(failed[start:stop, None], 0)

    return Scores(text_rows, video_rows, len(similarity), failed)


def _tile(scores: Tensor, texts: Tensor, failed: Tensor, finite: bool = False) -> Tensor:
    if not finite:
        require_finite(scores, "similarities of captions", texts)
    return scores.masked_fill_(failed, -torch.inf) if failed.any() else scores


def _failed(failed: Tensor | None, videos: int, device: torch.device) -> Tensor:
    return torch.zeros(videos, dtype=torch.bool, device=device) if failed is None else failed.to(device)


def require_finite(values: Tensor, what: str, start: int | Tensor = 0) -> float:
    """Refuses NaN and infinity, and gives the largest magnitude; 0 where there is no value.

    Args:
        values: (N, C).
        what: they are, for the message.
        start: number of the first row, or the numbers of all (N,).

    Raises:
        NonFiniteError: naming the rows.
    """
    # The extremes carry every NaN and infinity, and are much cheaper than an element-wise test.
    largest = float(torch.stack(torch.aminmax(values)).abs().max()) if values.numel() else 0.0
    if math.isfinite(largest):
        return largest
    rows = torch.nonzero(~values.isfinite().all(dim=1)).flatten()
    rows = rows + start if isinstance(start, int) else start[rows].sort().values
    raise NonFiniteError(f"NaN or infinite {what} in {len(rows)} row(s): {listed(rows)}; check the model")


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """fp32 products in fp32, whatever autocast and `torch.set_float32_matmul_precision` say.

    "medium", which Lightning recommends, multiplies in bf16 on CPUs that can and in TF32 on GPUs: it changes
    ranks and makes ties. The settings per backend can be read and restored where the global one raises.
    """
    mkldnn: Any = torch.backends.mkldnn  # torch's annotations do not know its `matmul`
    backends = (torch.backends.cuda.matmul, mkldnn.matmul)
    previous = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, previous, strict=True):
            backend.fp32_precision = precision
