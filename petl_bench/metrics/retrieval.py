"""Text-video retrieval: the rank of every query by counting, and what follows from the ranks.

Rank rule. For a query whose target scores s, and with the query's own positives left out of the gallery,
`greater` counts the gallery items that score above s and `equal` those that score exactly s:

    rank = 1 + greater + ceil(equal / 2)

This is the expected rank when ties are broken at random, rounded to the worse side. Constant similarities
thus give the median and mean rank of chance and R@1 = 0, where counting `>` alone would give R@1 = 100.
Without ties the ranks are those of the sorting implementations (CLIP4Clip, MV-Adapter, BLIP).

A video that could not be decoded has no feature: queries for it (either direction) get the worst rank, which
is the gallery's size, and as a gallery item it outranks nothing; its captions stay rivals of the others'. NaN
or infinite values anywhere else are a `NonFiniteError`.

Two conventions exist for video-to-text with several captions per video:
(a) `video_to_text`: the rank of the best own caption among all captions (BLIP, COCO);
(b) `video_to_caption_set`: a video's score for a caption set is the maximum over its captions, and the rank
    is among the sets, one per video (CLIP4Clip, MV-Adapter).
With one caption per video they are equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from petl_bench.errors import DataError
from petl_bench.metrics.both_ways import HITS, Ranks, ranks_both_ways
from petl_bench.metrics.by_index import gather_on_cpu, in_order, listed, sorting_permutation, to_cpu
from petl_bench.metrics.scores import Rows, Scores, full_precision, scores_of_features, scores_of_frames

TIE_SHARE_TO_WARN = 0.001
RECALL_AT = (1, 5, 10, 50)


def recall_at_k(ranks: Tensor, k: int) -> float:
    """Share of 1-based ranks (Q,) that are at most k, in percent."""
    return 100.0 * int((ranks <= k).sum()) / len(ranks)


def median_rank(ranks: Tensor) -> float:
    """Median of 1-based ranks (Q,); the mean of the two middle ones when Q is even."""
    return float(np.median(ranks.cpu().numpy()))


def mean_rank(ranks: Tensor) -> float:
    """Mean of 1-based ranks (Q,)."""
    return ranks.double().mean().item()


#: names of what `summarise` gives
SUMMARY = (*(f"R{k}" for k in RECALL_AT), "MdR", "MnR")


def summarise(ranks: Tensor) -> dict[str, float]:
    """R1, R5, R10, R50 in percent, and MdR and MnR, of 1-based ranks (Q,)."""
    recalls = {f"R{k}": recall_at_k(ranks, k) for k in RECALL_AT}
    return {**recalls, "MdR": median_rank(ranks), "MnR": mean_rank(ranks)}


@dataclass
class RetrievalResult:
    """What an evaluation found.

    Attributes:
        metrics: `t2v_*` and `v2t_*` of `summarise`; `rsum`, the sum of R1, R5 and R10 of both directions.
            `v2t` is convention (b) of the module; `v2t_captions` is (a), if a video has several captions.
        ranks: int32 ranks by direction; row i is the query with sample index i.
        hits: the first three hits by direction, int32 (Q, 3), as in `Ranks`: videos (`t2v`), captions (`v2t_captions`,
            and `v2t` with one caption per video), or videos whose caption sets they are (`v2t` with several).
        text_video: video index of each caption (M,).
        tie_share: share of the t2v and v2t queries that have a tie with their target, 0 to 1.
        failed_videos: videos that could not be decoded.
        second: what `RetrievalMetric.beside` found.
    """

    metrics: dict[str, float]
    ranks: dict[str, np.ndarray]
    hits: dict[str, np.ndarray]
    text_video: np.ndarray
    tie_share: float
    failed_videos: int
    second: list[dict[str, Any]] = field(default_factory=list)


OtherTexts = Callable[[Tensor], Scores]
"""Features (N, E) of captions that are no queries -> their similarities with the videos of the split."""


class RetrievalMetric(Metric):
    """Retrieval in both directions, keyed by sample index: any number of processes gives the same result.

    Features are kept as fp32 on the CPU, so that a long evaluation does not fill the accelerator.

    Args:
        expected_videos: number of videos of the split, or None for one more than the largest index seen.
        expected_texts: the same for captions.

    Attributes:
        beside: what is calculated from the similarities beside the ranks, given them, the video of each caption (M,),
            and what compares other captions with the same videos; None: nothing.
    """

    full_state_update = False
    video_features: list[Tensor]
    video_index: list[Tensor]
    video_decoded: list[Tensor]
    text_features: list[Tensor]
    text_index: list[Tensor]
    text_video: list[Tensor]

    def __init__(self, expected_videos: int | None = None, expected_texts: int | None = None) -> None:
        super().__init__(dist_sync_fn=gather_on_cpu)
        self.expected_videos = expected_videos
        self.expected_texts = expected_texts
        self.beside: Callable[[Scores, Tensor, OtherTexts], list[dict[str, Any]]] | None = None
        for state in ("video_features", "video_index", "video_decoded"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        for state in ("text_features", "text_index", "text_video"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update_clips(self, pooled: Tensor, frames: Tensor | None, mask: Tensor, index: Tensor, decoded: Tensor) -> None:
        """Adds what this metric keeps of videos, as in `update_videos`.

        Args:
            pooled: (B, E); never looked at where a video could not be decoded, and has no real frame.
            frames: (B, T, E), of a backbone that gives features of frames.
            mask: (B, T) bool, True where a frame is real.
            index: sample index (B,).
            decoded: whether each could be decoded (B,).
        """
        self.update_videos(torch.where(decoded[:, None], pooled, 0), index, decoded)

    def update_captions(self, pooled: Tensor, projected: Tensor, index: Tensor, video_index: Tensor) -> None:
        """Adds what this metric keeps of captions, normalised or not (M, E), as in `update_texts`."""
        self.update_texts(self.of_captions(pooled, projected), index, video_index)

    def of_captions(self, pooled: Tensor, projected: Tensor) -> Tensor:
        """Which features of captions it compares with videos: the normalised ones, or those before that (M, E)."""
        return pooled

    def update_videos(self, features: Tensor, index: Tensor, decoded: Tensor) -> None:
        """Adds videos: features (B, E), sample index (B,), and whether each could be decoded (B,)."""
        self.update(videos=(features, index, decoded))

    def update_texts(self, features: Tensor, index: Tensor, video_index: Tensor) -> None:
        """Adds captions: features (M, E), sample index (M,), and the sample index of their video (M,)."""
        self.update(texts=(features, index, video_index))

    def update(
        self,
        videos: tuple[Tensor, Tensor, Tensor] | None = None,
        texts: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        """Adds the videos and the captions of a step; see `update_videos` and `update_texts`."""
        if videos is not None:
            features, index, decoded = _same_length(*videos)
            self.video_features.append(to_cpu(features, torch.float32))
            self.video_index.append(to_cpu(index, torch.long))
            self.video_decoded.append(to_cpu(decoded, torch.bool))
        if texts is not None:
            features, index, video_index = _same_length(*texts)
            self.text_features.append(to_cpu(features, torch.float32))
            self.text_index.append(to_cpu(index, torch.long))
            self.text_video.append(to_cpu(video_index, torch.long))

    def compute(self) -> RetrievalResult:
        """Ranks and metrics over the samples of all processes.

        Raises:
            DistributedError: a sample index is missing or occurs more than once.
            NonFiniteError: a feature or a similarity is NaN or infinite.
            DataError: there is nothing to rank, or captions and videos do not fit together.
        """
        if not len(self.video_index) or not len(self.text_index):
            raise DataError("retrieval metric: no videos or no captions were evaluated; check the split")
        sorting_permutation(dim_zero_cat(self.video_index), self.expected_videos, "video")
        sorting_permutation(dim_zero_cat(self.text_index), self.expected_texts, "caption")
        text, text_video = (in_order(state, self.text_index) for state in (self.text_features, self.text_video))
        video, decoded = (in_order(state, self.video_index) for state in (self.video_features, self.video_decoded))
        scores = self._scores(text, video, ~decoded)
        result = _evaluate(scores, text_video)
        if self.beside is not None:
            result.second = self.beside(scores, text_video, lambda others: self._scores(others, video, ~decoded))
        return result

    def _scores(self, text: Tensor, video: Tensor, failed: Tensor) -> Scores:
        """How captions and videos are compared."""
        return scores_of_features(text, video, failed)


class TextConditionedRetrievalMetric(RetrievalMetric):
    """Retrieval by `text_conditioned_cosine`: what is kept of a video is its frames, (V, T, E).

    Args:
        temperature: of the softmax over frames.
        expected_videos: see `RetrievalMetric`.
        expected_texts: see `RetrievalMetric`.
    """

    frame_mask: list[Tensor]

    def __init__(
        self, temperature: float, expected_videos: int | None = None, expected_texts: int | None = None
    ) -> None:
        super().__init__(expected_videos, expected_texts)
        self.temperature = temperature
        self.add_state("frame_mask", default=[], dist_reduce_fx="cat")

    def update_clips(self, pooled: Tensor, frames: Tensor | None, mask: Tensor, index: Tensor, decoded: Tensor) -> None:
        assert frames is not None, "tasks ask for features of frames"
        self.update_frames(frames, mask, index, decoded)

    def of_captions(self, pooled: Tensor, projected: Tensor) -> Tensor:
        return projected

    def update_frames(self, features: Tensor, mask: Tensor, index: Tensor, decoded: Tensor) -> None:
        """Adds videos: frame features (B, T, E), their mask (B, T), and as in `update_videos`; T is always the same."""
        self.update_videos(features, index, decoded)
        self.frame_mask.append(to_cpu(mask, torch.bool))

    def _scores(self, text: Tensor, video: Tensor, failed: Tensor) -> Scores:
        mask = in_order(self.frame_mask, self.video_index)
        return scores_of_frames(text, video, mask, self.temperature, failed)


def ranks_of_directions(scores: Scores, text_video: Tensor) -> dict[str, Ranks]:
    """`t2v`, `v2t` and, if a video has several captions, `v2t_captions`, as `RetrievalResult` says.

    Memory beside the features is linear in captions and videos, see `petl_bench.metrics.both_ways`.

    Raises:
        NonFiniteError: a similarity is NaN or infinite.
        DataError: `text_video` does not fit the scores, or a video has no caption.
    """
    if scores.tiles is not None:
        text_video = _check_pairs(scores, text_video)
        _require_captions(scores, text_video)
        return ranks_both_ways(scores.tiles, text_video, scores.failed, scores.side)
    directions = {"t2v": text_to_video_ranks(scores, text_video)}
    captions = video_to_text_ranks(scores, text_video)
    if scores.texts == len(scores.failed):
        return directions | {"v2t": captions}
    return directions | {"v2t": video_to_caption_set_ranks(scores, text_video), "v2t_captions": captions}


def _evaluate(scores: Scores, text_video: Tensor) -> RetrievalResult:
    failed = scores.failed
    directions = ranks_of_directions(scores, text_video)
    tie_share = (directions["t2v"].ties + directions["v2t"].ties) / (scores.texts + len(failed))
    if tie_share > TIE_SHARE_TO_WARN:
        warnings.warn(
            f"{100 * tie_share:.2f} % of the retrieval queries have rivals that score just as their target: "
            "duplicate captions or videos, or collapsed features; they get the rank expected at random",
            stacklevel=2,
        )
    metrics = {
        f"{direction}_{name}": value
        for direction, result in directions.items()
        for name, value in summarise(result.ranks).items()
    }
    metrics["rsum"] = sum(metrics[f"{d}_R{k}"] for d in ("t2v", "v2t") for k in (1, 5, 10))
    return RetrievalResult(
        metrics=metrics,
        ranks={direction: result.ranks.numpy() for direction, result in directions.items()},
        hits={direction: result.hits.numpy() for direction, result in directions.items()},
        text_video=text_video.numpy(),
        tie_share=tie_share,
        failed_videos=int(failed.sum()),
    )


def _same_length(features: Tensor, index: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not len(features) == len(index) == len(third):
        raise ValueError(f"{len(features)} features, {len(index)} indices and {len(third)} flags or videos")
    return features, index, third


def text_to_video_ranks(scores: Scores, text_video: Tensor, chunk: int = 256) -> Ranks:
    """Rank of each caption's video among all videos.

    Args:
        scores: of all captions and videos.
        text_video: row of each caption's video (M,).
        chunk: queries per block; memory is O(chunk * gallery).

    Raises:
        NonFiniteError: a similarity is NaN or infinite.
        DataError: `text_video` does not fit the scores.
    """
    text_video = _check_pairs(scores, text_video)
    texts = torch.arange(scores.texts, device=text_video.device)
    failed = scores.failed
    return _rank(scores.text_rows, (texts, text_video), failed[text_video], len(failed), chunk)


def video_to_text_ranks(scores: Scores, text_video: Tensor, chunk: int = 256) -> Ranks:
    """Rank of each video's best own caption among all captions: convention (a) of the module.

    Arguments and errors as in `text_to_video_ranks`; a video without a caption is a `DataError`.
    """
    text_video = _check_pairs(scores, text_video)
    _require_captions(scores, text_video)
    texts = torch.arange(scores.texts, device=text_video.device)
    return _without_blind(_rank(scores.video_rows, (text_video, texts), scores.failed, scores.texts, chunk), scores)


def video_to_caption_set_ranks(scores: Scores, text_video: Tensor, chunk: int = 256) -> Ranks:
    """Rank of each video's caption set among all caption sets: convention (b) of the module.

    Arguments and errors as in `text_to_video_ranks`; a video without a caption is a `DataError`.
    """
    text_video = _check_pairs(scores, text_video)
    _require_captions(scores, text_video)
    videos = torch.arange(len(scores.failed), device=text_video.device)

    def set_rows(start: int, stop: int) -> Tensor:
        captions = scores.video_rows(start, stop)  # (C, M)
        sets = captions.new_full((stop - start, len(videos)), -torch.inf)
        return sets.scatter_reduce_(1, text_video.expand_as(captions), captions, "amax")  # (C, V)

    return _without_blind(_rank(set_rows, (videos, videos), scores.failed, len(videos), chunk), scores)


def _without_blind(found: Ranks, scores: Scores) -> Ranks:
    """A video that could not be decoded has hit nothing."""
    return found._replace(hits=found.hits.masked_fill(scores.failed[:, None], -1))


def _check_pairs(scores: Scores, text_video: Tensor) -> Tensor:
    texts, videos = scores.texts, len(scores.failed)
    if not texts or text_video.shape != (texts,):
        raise DataError(f"text_video has shape {tuple(text_video.shape)} for {texts} captions; give one video each")
    outside = torch.nonzero((text_video < 0) | (text_video >= videos)).flatten()
    if len(outside):
        raise DataError(f"captions {listed(outside)} belong to no evaluated video; there are {videos} videos")
    return text_video.to(scores.failed.device)


def _require_captions(scores: Scores, text_video: Tensor) -> None:
    captions = torch.bincount(text_video, minlength=len(scores.failed))
    without = torch.nonzero(captions == 0).flatten()
    if len(without):
        raise DataError(f"videos {listed(without)} have no caption; video-to-text needs one for every video")


def _rank(rows: Rows, positives: tuple[Tensor, Tensor], lost: Tensor, gallery_size: int, chunk: int) -> Ranks:
    """The one place that counts; the rule is in the module's docstring.

    Args:
        rows: (start, stop) -> scores of these queries against the gallery (C, G), free to overwrite.
        positives: query and gallery item of each positive pair, (P,) each; every query has at least one.
        lost: queries that get the worst rank (Q,): they have no feature, or their target has none.
        gallery_size: G.
        chunk: C.
    """
    order = torch.argsort(positives[0])
    queries, items = positives[0][order], positives[1][order]
    greater, equal = torch.zeros((2, len(lost)), dtype=torch.int32, device=lost.device)
    hits = torch.full((len(lost), HITS), -1, dtype=torch.int32, device=lost.device)
    with full_precision(lost.device.type):
        for start in range(0, len(lost), chunk):
            stop = min(start + chunk, len(lost))
            scores = rows(start, stop)
            bounds = torch.tensor([start, stop], device=queries.device)
            own = slice(*torch.searchsorted(queries, bounds).tolist())
            row, item = queries[own] - start, items[own]
            # The target comes from the same product as its rivals: computed apart, the last bit differs.
            positive = scores[row, item]
            target = scores.new_full((stop - start,), -torch.inf)
            target.scatter_reduce_(0, row, positive, "amax")
            scores[row, item] = -torch.inf
            greater[start:stop] = (scores > target[:, None]).sum(dim=1, dtype=torch.int32)
            equal[start:stop] = (scores == target[:, None]).sum(dim=1, dtype=torch.int32)
            scores[row, item] = positive
            hits[start:stop] = _first_hits(scores)
    ranks = (1 + greater + (equal + 1) // 2).masked_fill(lost, gallery_size)
    ties = int(torch.count_nonzero(equal.masked_fill(lost, 0)))
    return Ranks(ranks, ties, gallery_size, hits)


def ranks_of_any(
    rows: Rows, positives: tuple[Tensor, Tensor], failed: Tensor, queries: int, chunk: int = 256
) -> Tensor:
    """Rank of the best of several targets of each query (Q,), by the rule of the module.

    Args:
        rows: (start, stop) -> scores of these queries against the gallery (C, G), free to overwrite.
        positives: query and gallery item of each pair, (P,) each; every query has at least one.
        failed: gallery items without a feature (G,); a query that has only such targets gets the worst rank.
        queries: Q.
        chunk: C.
    """
    findable = torch.bincount(positives[0][~failed[positives[1]]], minlength=queries)
    return _rank(rows, positives, findable == 0, len(failed), chunk).ranks


def position_pairs(
    rows: Rows, positives: tuple[Tensor, Tensor], queries: int, most: int, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """Places of all targets of each query, by the rule of the module: the j-th best stands behind j - 1 own ones.

    Args:
        rows: (start, stop) -> scores of these queries against the gallery (C, G), free to overwrite.
        positives: query and gallery item of each pair, (P,) each; every query has at least one.
        queries: Q.
        most: a place beyond it is only said to be beyond it.
        chunk: C.

    Returns:
        Query and place of each pair, (P,) each; those of a query together, best first.
    """
    by_query = torch.argsort(positives[0], stable=True)
    query, item = positives[0][by_query], positives[1][by_query]
    places = []
    with full_precision(query.device.type):
        for start in range(0, queries, chunk):
            stop = min(start + chunk, queries)
            scores = rows(start, stop)
            own = slice(*torch.searchsorted(query, torch.tensor([start, stop])).tolist())
            row, items = query[own] - start, item[own]
            score = scores[row, items]
            scores[row, items] = -torch.inf
            # So many of the others tell whether a place is beyond `most`, were all of them equal.
            others = scores.topk(min(2 * most + 1, scores.shape[1]), dim=1).values[row]  # (P, O)
            greater = (others > score[:, None]).sum(1)
            equal = (others == score[:, None]).sum(1)
            best_first = torch.argsort(score, descending=True, stable=True)
            best_first = best_first[torch.argsort(row[best_first], stable=True)]
            counts = torch.bincount(row, minlength=stop - start)
            before = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]  # own ones
            places.append(1 + before + (greater + (equal + 1) // 2)[best_first])
    return query, torch.cat(places)


def _first_hits(scores: Tensor) -> Tensor:
    """The items that score highest (C, 3), the lower index first among equals; overwrites the scores (C, G).

    `topk` promises no order among equals; `max` gives the first.
    """
    hits = []
    for _ in range(HITS):
        score, item = scores.max(dim=1)
        scores.scatter_(1, item[:, None], -torch.inf)
        hits.append(item.masked_fill(score == -torch.inf, -1))
    return torch.stack(hits, dim=1)
