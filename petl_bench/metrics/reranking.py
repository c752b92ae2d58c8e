"""Retrieval in two stages: all pairs by cosine, then the nearest of each query by a score of the pair."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from petl_bench.metrics.by_index import sorting_permutation, to_cpu
from petl_bench.metrics.retrieval import RetrievalMetric
from petl_bench.metrics.scores import Scores, full_precision, scores_of_matrix


class Candidates(NamedTuple):
    """What the second stage scores, the same in all processes.

    Attributes:
        pairs: (M, V) bool, True where a caption is among the nearest of a video, or the video among the caption's.
        text: caption features (M, E).
        ids: token ids (M, N).
        mask: (M, N) bool, True for tokens.
    """

    pairs: Tensor
    text: Tensor
    ids: Tensor
    mask: Tensor


class RerankedRetrievalMetric(RetrievalMetric):
    """`RetrievalMetric` whose queries rank their k nearest candidates again, in both directions.

    A candidate scores `match + beta * cosine`. What is no candidate ranks below all candidates, in the order of the
    cosine: BLIP gives all of it the score -100, which leaves the ranks beyond k to chance. Recall at up to k is the
    same. Videos that could not be decoded are no candidates.

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
        of_texts, of_videos = nearest(cosines(text, video), failed, self.k)
        return Candidates(of_texts | of_videos, text, ids, mask)

    def reranked(self, similarity: Tensor, failed: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of both stages by which captions rank videos and videos rank captions, each (M, V)."""
        match = torch.full_like(similarity, torch.nan)  # a candidate that nobody scored is found out as not finite
        if len(self.pair_match):
            pairs = dim_zero_cat(self.pair_text).cpu(), dim_zero_cat(self.pair_video).cpu()
            match[pairs] = dim_zero_cat(self.pair_match).cpu()
        of_texts, of_videos = nearest(similarity, failed, self.k)
        t2v, v2t = (second_stage(similarity, candidates, match, self.beta) for candidates in (of_texts, of_videos))
        return t2v, v2t

    def _scores(self, text: Tensor, video: Tensor, failed: Tensor, videos: Tensor) -> Scores:
        t2v, v2t = (scores_of_matrix(scores, failed) for scores in self.reranked(cosines(text, video), failed))
        return Scores(t2v.text_rows, v2t.video_rows, len(text), failed)


def cosines(text: Tensor, video: Tensor) -> Tensor:
    """Products of features (M, E) and (V, E) in full precision: (M, V)."""
    with full_precision(text.device.type):
        return text @ video.T


def nearest(similarity: Tensor, failed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The candidates of captions and those of videos, each (M, V) bool.

    Args:
        similarity: (M, V).
        failed: videos without a feature (V,), which are no candidates and have none.
        k: candidates of each query; all of them where there are fewer.
    """
    texts, videos = similarity.shape
    similarity = similarity.masked_fill(failed, -torch.inf)
    of_texts = similarity.topk(min(k, videos), dim=1).indices  # (M, k)
    of_videos = similarity.topk(min(k, texts), dim=0).indices  # (k, V)
    nobody = torch.zeros_like(similarity, dtype=torch.bool)
    return nobody.scatter(1, of_texts, True) & ~failed, nobody.scatter(0, of_videos, True) & ~failed


def second_stage(similarity: Tensor, candidates: Tensor, match: Tensor, beta: float) -> Tensor:
    """Scores by which the second stage ranks: candidates first, then the others in the order of the first stage.

    Args:
        similarity: cosines (M, V).
        candidates: (M, V) bool.
        match: scores of the pairs (M, V); only those of candidates are read.
        beta: weight of the cosine in a candidate's score.
    """
    scores = match + beta * similarity
    lowest = torch.where(candidates, scores, torch.inf).amin()
    return torch.where(candidates, scores, lowest - 3 + similarity)  # cosines lie within [-1, 1]
