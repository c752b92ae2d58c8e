"""Retrieval in two stages: all pairs by cosine, then the nearest of each query by a score of the pair."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from petl_bench.metrics.by_index import sorting_permutation, to_cpu
from petl_bench.metrics.retrieval import RetrievalMetric
from petl_bench.metrics.scores import Rows, Scores, full_precision, require_finite, scores_of_features

#: queries whose cosines are held at once
_CHUNK = 256


class Candidates(NamedTuple):
    """What the second stage scores, the same in all processes: P pairs, each once.

    Attributes:
        videos: of the pairs, in ascending order (P,).
        texts: of the pairs, in ascending order for each video (P,): captions that are among its nearest, or that it is
            among the nearest of.
        text: caption features (M, E).
        ids: token ids (M, N).
        mask: (M, N) bool, True for tokens.
    """

    videos: Tensor
    texts: Tensor
    text: Tensor
    ids: Tensor
    mask: Tensor

    def texts_of(self, video: int) -> Tensor:
        """The captions that a video is matched with."""
        start, stop = torch.searchsorted(self.videos, torch.tensor([video, video + 1])).tolist()
        return self.texts[start:stop]


class Nearest(NamedTuple):
    """The k candidates of each of Q queries, or all where there are fewer.

    Attributes:
        items: of the gallery (Q, k).
        cosines: with the query (Q, k); -inf where it is none: the one or the other is a video that was not decoded.
    """

    items: Tensor
    cosines: Tensor

    @property
    def exist(self) -> Tensor:
        """(Q, k) bool."""
        return self.cosines > -torch.inf


class RerankedRetrievalMetric(RetrievalMetric):
    """`RetrievalMetric` whose queries rank their k nearest candidates again, in both directions.

    A candidate scores `match + beta * cosine`. What is no candidate ranks below all candidates, in the order of the
    cosine: BLIP gives all of it the score -100, which leaves the ranks beyond k to chance. Recall at up to k is the
    same. Videos that could not be decoded are no candidates. Nothing is as large as all pairs, captions times videos.

    Source: the evaluation of BLIP (Li et al., arXiv 2201.12086), `train_retrieval.py` of its official code, with beta
    1; UniAdapter's (arXiv 2302.06605) has beta 0.

    Args:
        k: candidates of each query.
        beta: weight of the first stage's score in the second.
    """

    text_ids: list[Tensor]
    text_mask: list[Tensor]
    pair_text: list[Tensor]
    pair_video: list[Tensor]
    pair_match: list[Tensor]

    def __init__(self, k: int, beta: float) -> None:
        super().__init__()
        self.k, self.beta = k, beta
        for state in ("text_ids", "text_mask", "pair_text", "pair_video", "pair_match"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update_tokens(self, ids: Tensor, mask: Tensor) -> None:
        """Adds the tokens (M, N) of the captions that the last `update_texts` added."""
        self.text_ids.append(to_cpu(ids, torch.long))
        self.text_mask.append(to_cpu(mask, torch.bool))

    def update_pairs(self, texts: Tensor, video: int, match: Tensor) -> None:
        """Adds scores of the second stage: caption indices (P,) with one video, and their scores (P,)."""
        self.pair_text.append(to_cpu(texts, torch.long))
        self.pair_video.append(torch.full((len(texts),), video))
        self.pair_match.append(to_cpu(match, torch.float32))

    def candidates(self) -> Candidates:
        """What the second stage has to score, from the samples of all processes; all of them must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            videos = sorting_permutation(dim_zero_cat(self.video_index), self.expected_videos, "video")
            texts = sorting_permutation(dim_zero_cat(self.text_index), self.expected_texts, "caption")
            text, ids, mask = (
                dim_zero_cat(state)[texts].cpu() for state in (self.text_features, self.text_ids, self.text_mask)
            )
            video = dim_zero_cat(self.video_features)[videos].cpu()
            failed = ~dim_zero_cat(self.video_decoded)[videos].cpu()
        both = nearest(scores_of_features(text, video, failed), self.k)
        keys = [keys[found.exist] for keys, found in zip(_keys(*both), both, strict=True)]
        pairs = torch.cat(keys).unique()  # sorted
        return Candidates(pairs // len(text), pairs % len(text), text, ids, mask)

    def _scores(self, text: Tensor, video: Tensor, failed: Tensor) -> Scores:
        return self.reranked(scores_of_features(text, video, failed))

    def reranked(self, first: Scores) -> Scores:
        """What both stages rank by, from what the first one does.

        Raises:
            NonFiniteError: a candidate was not scored, or its score is NaN or infinite.
        """
        both = nearest(first, self.k)
        of_texts, of_videos = (
            SecondStageScores(found, self._matches(keys, first.texts), self.beta)
            for found, keys in zip(both, _keys(*both), strict=True)
        )

        def text_rows(start: int, stop: int) -> Tensor:
            return of_texts.instead_of(first.text_rows(start, stop), start)

        def video_rows(start: int, stop: int) -> Tensor:
            scores = of_videos.instead_of(first.video_rows(start, stop), start)
            return scores.masked_fill_(first.failed[start:stop, None], 0)

        return Scores(text_rows, video_rows, first.texts, first.failed)

    def _matches(self, keys: Tensor, texts: int) -> Tensor:
        """Scores of pairs by their keys (Q, k), among so many captions; NaN for those that nobody scored."""
        if not len(self.pair_match):
            return torch.full(keys.shape, torch.nan)
        scored, order = (dim_zero_cat(self.pair_video) * texts + dim_zero_cat(self.pair_text)).cpu().sort()
        places = torch.searchsorted(scored, keys).clamp_(max=len(scored) - 1)
        match = dim_zero_cat(self.pair_match).cpu()[order][places]
        return match.masked_fill_(scored[places] != keys, torch.nan)


class SecondStageScores:
    """Scores by which the second stage ranks: candidates first, then the others in the order of the first stage.

    Args:
        found: candidates of Q queries.
        match: scores of the pairs (Q, k); only those of candidates are read.
        beta: weight of the cosine in a candidate's score.

    Raises:
        NonFiniteError: the score of a candidate is NaN or infinite.
    """

    def __init__(self, found: Nearest, match: Tensor, beta: float) -> None:
        self.items, self.exist = found.items, found.exist
        self.scores = torch.where(self.exist, match + beta * found.cosines, 0)  # (Q, k)
        require_finite(self.scores, "scores of pairs in the second stage, of queries")
        lowest = self.scores[self.exist].amin() if self.exist.any() else self.scores.new_zeros(())
        self.others = lowest - 3  # cosines lie within [-1, 1]

    def instead_of(self, cosines: Tensor, start: int) -> Tensor:
        """The scores (C, G) of queries from `start` on, from their cosines, which are overwritten."""
        own = slice(start, start + len(cosines))
        items, scores = self.items[own], cosines.add_(self.others)
        return scores.scatter_(1, items, torch.where(self.exist[own], self.scores[own], scores.gather(1, items)))


def nearest(first: Scores, k: int) -> tuple[Nearest, Nearest]:
    """The candidates of captions among videos, and those of videos among captions.

    Args:
        first: what they are near by.
        k: candidates of each query.
    """
    of_texts = _nearest(first.text_rows, first.texts, k)
    items, cosines = _nearest(first.video_rows, len(first.failed), k)
    return of_texts, Nearest(items, cosines.masked_fill_(first.failed[:, None], -torch.inf))


def _nearest(rows: Rows, queries: int, k: int) -> Nearest:
    found = []
    with full_precision("cpu"):
        for start in range(0, queries, _CHUNK):
            scores = rows(start, min(start + _CHUNK, queries))
            found.append(scores.topk(min(k, scores.shape[1]), dim=1))
    return Nearest(torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]))


def _keys(of_texts: Nearest, of_videos: Nearest) -> tuple[Tensor, Tensor]:
    """A number for each pair, the same in both directions: video * M + caption, (M, k) and (V, k)."""
    texts, videos = len(of_texts.items), len(of_videos.items)
    return (
        of_texts.items * texts + torch.arange(texts)[:, None],
        torch.arange(videos)[:, None] * texts + of_videos.items,
    )
