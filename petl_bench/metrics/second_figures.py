"""Figures beside the ranks of retrieval: other orders of the same similarities, and other scores of an order.

All work on `Scores`, block by block, so that the figures come from the very similarities that gave the ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from petl_bench.metrics.retrieval import position_pairs, text_to_video_ranks
from petl_bench.metrics.scores import Rows, Scores, full_precision

#: of a pair whose similarity is not positive, after dual softmax: below all others, and all alike
_LOWEST = -1e30


class Compared(NamedTuple):
    """What was ranked.

    Attributes:
        scores: of all captions and videos of the split.
        text_video: video index of each caption (M,).
        bank: similarities of other captions, which are no queries of the split, with the same videos; None without any.
    """

    scores: Scores
    text_video: Tensor
    bank: Scores | None = None


# --- other orders -----------------------------------------------------------------------------------------------------


def dual_softmax(scores: Scores, scale: float, temperature: float, chunk: int = 256) -> Scores:
    """Each similarity times the share that its query has of the item's similarities with all queries.

    With S = scale * cosine, a caption i scores video j by S_ij * exp(S_ij / t) / sum over all captions k of
    exp(S_kj / t), and a video j scores caption i by S_ij * exp(S_ij / t) / sum over all videos k of exp(S_ik / t): in
    both directions the softmax is over the queries of that direction. Scores are logarithms of that, so that no
    temperature makes ties; where S is not positive it has none, and such pairs rank below all others, as ties.
    Videos without a feature are in no softmax.

    Source: CAMoE (Cheng et al., arXiv 2109.04290).

    Args:
        scores: cosines.
        scale: of the cosines, as in the loss (already exponentiated).
        temperature: t; 1 is the published inference.
        chunk: captions per block.
    """
    over_texts = torch.full((len(scores.failed),), -torch.inf, dtype=torch.float64)  # (V,)
    over_videos = []
    with full_precision(scores.failed.device.type):
        for start in range(0, scores.texts, chunk):
            logits = scores.text_rows(start, min(start + chunk, scores.texts)).double() * (scale / temperature)
            over_texts = torch.logaddexp(over_texts, logits.logsumexp(dim=0))
            over_videos.append(logits.logsumexp(dim=1))
    of_videos = torch.cat(over_videos)  # (M,)

    def weighed(block: Tensor, prior: Tensor) -> Tensor:
        block = block.double() * scale
        # A gallery item without a feature stays at minus infinity.
        lowest = torch.where(block == -torch.inf, block, _LOWEST)
        return torch.where(block > 0, block.log() + block / temperature - prior, lowest)

    return scores._replace(
        text_rows=lambda start, stop: weighed(scores.text_rows(start, stop), over_texts),
        video_rows=lambda start, stop: weighed(scores.video_rows(start, stop), of_videos),
        tiles=None,  # the two directions differ
    )


def qb_norm(scores: Scores, bank: Scores, beta: float, k: int, chunk: int = 256) -> Scores:
    """Scores of captions whose nearest video is a hub of the bank are divided by what the bank gives each video.

    A is the set of videos that are among the k nearest of at least one caption of the bank. If the first video of a
    query is in A, the query scores video j by exp(beta s_qj) / sum over the bank of exp(beta s_bj); else by s_qj. The
    scores of the former are logarithms of that, which rank alike. Only captions are ranked so: `video_rows` stays.

    Source: QB-Norm (Bogolin et al., arXiv 2112.12777), dynamic inverted softmax.

    Args:
        scores: cosines.
        bank: cosines of the captions of the bank with the same videos.
        beta: inverse temperature; 20 on cosines is published.
        k: neighbours of each caption of the bank.
        chunk: captions of the bank per block.
    """
    videos = len(scores.failed)
    total = torch.full((videos,), -torch.inf, dtype=torch.float64)
    hubs = torch.zeros(videos, dtype=torch.bool)
    with full_precision(scores.failed.device.type):
        for start in range(0, bank.texts, chunk):
            block = bank.text_rows(start, min(start + chunk, bank.texts))
            total = torch.logaddexp(total, (beta * block.double()).logsumexp(dim=0))
            hubs[block.topk(min(k, videos), dim=1).indices.flatten()] = True
    total = total.masked_fill(scores.failed, 0)  # where all scores are minus infinity
    hubs &= ~scores.failed

    def text_rows(start: int, stop: int) -> Tensor:
        block = scores.text_rows(start, stop).double()
        return torch.where(hubs[block.argmax(dim=1), None], beta * block - total, block)

    return scores._replace(text_rows=text_rows, tiles=None)


# --- other scores of an order -----------------------------------------------------------------------------------------


def ndcg(relevant_at: Tensor, query: Tensor, queries: int, k: int) -> Tensor:
    """nDCG@k of each query with binary relevance: DCG is the sum of 1 / log2(1 + place) over relevant items up to k.

    Args:
        relevant_at: 1-based places of relevant items (P,).
        query: whose they are (P,).
        queries: Q; each has at least one relevant item.
        k: where the order is cut, and the ideal one, too.

    Returns:
        (Q,), from 0 to 1.
    """
    gains = torch.where(relevant_at <= k, 1 / torch.log2(1 + relevant_at.double()), 0)
    found = torch.zeros(queries, dtype=torch.float64).scatter_add_(0, query, gains)
    ideal = torch.log2(1 + torch.arange(1, k + 1, dtype=torch.float64)).reciprocal().cumsum(0)  # (k,)
    relevant = torch.bincount(query, minlength=queries).clamp(max=k)
    return found / ideal[relevant - 1]


def ndcg_of_directions(compared: Compared, k: int, chunk: int = 256) -> dict[str, Tensor]:
    """nDCG@k of each query (Q,): `t2v` with one relevant video, `v2t` with all captions of the video.

    Places are by the rule of `petl_bench.metrics.retrieval`: the j-th best of a query's own items stands behind j - 1
    own ones, all others that score higher, and half of those that score the same, rounded up. A query that could not be
    decoded, or whose target could not, has 0.
    """
    scores, text_video = compared.scores, compared.text_video
    texts, videos = torch.arange(scores.texts), len(scores.failed)
    lost = scores.failed[text_video]
    t2v = ndcg(text_to_video_ranks(scores, text_video, chunk).ranks, texts, scores.texts, k)
    query, places = position_pairs(scores.video_rows, (text_video, texts), videos, k, chunk)
    v2t = ndcg(places, query, videos, k)
    return {"t2v": t2v.masked_fill(lost, 0), "v2t": v2t.masked_fill(scores.failed, 0)}


def judged_share(rows: Rows, judged: Tensor, k: int, chunk: int = 256) -> float:
    """Which share of the first k items of all queries was judged at all.

    Args:
        rows: (start, stop) -> scores of these queries (C, G).
        judged: pairs that were (Q, G).
        k: places; all of them where there are fewer items.
        chunk: queries per block.
    """
    queries, gallery = judged.shape
    seen = 0
    with full_precision(judged.device.type):
        for start in range(0, queries, chunk):
            stop = min(start + chunk, queries)
            # Of equal scores the lower index comes first.
            first = rows(start, stop).sort(dim=1, descending=True, stable=True).indices[:, :k]
            seen += int(judged[start:stop].gather(1, first).sum())
    return seen / (queries * min(k, gallery))
