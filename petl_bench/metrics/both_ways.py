"""Ranks of captions and of videos from one pass over their similarities, which come in tiles of one size.

A tile (C, D) counts for its C captions and for its D videos. What the targets of queries score is known before rivals
are counted: tiles that hold a pair come first, and are kept until it is their turn. So each similarity is calculated
once, by the same product as the targets it is compared with, and equal features score the same in whichever tile.

Memory is linear in captions and videos: beside the features a few numbers for each query, one tile, and the kept ones,
which are about 4 `SIDE` bytes for each caption (4 KB, what 1,024 features take in fp32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from petl_bench.metrics.scores import SIDE, Tiles, full_precision

#: gallery items that are kept of each query
HITS = 3
#: sets of a tile's items, at least, whose best ones tell from which score on an item can be a hit
_PARTS = 16
_NO_ITEM = np.iinfo(np.int64).max
_LOWEST = np.float32(-np.inf)
#: rows of a tile that are counted at a time
_STRIP = 128
_LOWEST = np.float32(-np.inf)
#: at most one score in so many is looked at singly
_FEW = 64
_NO_PAIRS = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)


class Ranks(NamedTuple):
    """What was counted for all queries of one direction.

    Attributes:
        ranks: 1-based int32 (Q,).
        ties: queries with a tie.
        gallery_size: G.
        hits: the gallery items with the highest scores, own ones included, best first: int32 (Q, 3). Of equal scores
            the lower index comes first, so an own item may stand first though it ties, and its rank says so. -1 where
            there is none: the gallery is smaller, the item could not be decoded, or the query could not.
    """

    ranks: Tensor
    ties: int
    gallery_size: int
    hits: Tensor

    def taken(self, queries: np.ndarray) -> Ranks:
        """The same of queries in another order (Q,)."""
        return self._replace(ranks=self.ranks[queries], hits=self.hits[queries])


def ranks_both_ways(tiles: Tiles, text_video: Tensor, failed: Tensor, side: int = SIDE) -> dict[str, Ranks]:
    """`t2v`, `v2t` and, if a video has several captions, `v2t_captions`, by the rule of `petl_bench.metrics.retrieval`.

    Args:
        tiles: as in `Scores`.
        text_video: video of each caption (M,); every video has one.
        failed: videos without a feature (V,).
        side: captions and videos of a tile, at most; more captions where a single video has more.

    Raises:
        NonFiniteError: a similarity is NaN or infinite.
    """
    with full_precision(failed.device.type):
        return _Pass(tiles, text_video, failed, side).ranks()


class _Span(NamedTuple):
    """Captions, by their place in the order of videos, or videos of a tile: what counts, and what the tile holds.

    The last ones overlap those before them, so that all tiles have one shape, and scores do not depend on it.
    """

    start: int
    stop: int
    held: slice

    @property
    def counting(self) -> slice:
        """Rows or columns of the tile that count."""
        return slice(self.start - self.held.start, self.stop - self.held.start)


def _spans(bounds: np.ndarray, side: int) -> list[_Span]:
    """Cuts 0 .. bounds[-1] at bounds (N + 1,) into spans of `side` at most, where bounds are not further apart."""
    total = int(bounds[-1])
    size = -(-total // -(-total // side))
    cuts = [0]
    while cuts[-1] < total:
        furthest = int(np.searchsorted(bounds, cuts[-1] + size, side="right")) - 1
        following = int(np.searchsorted(bounds, cuts[-1], side="right"))
        cuts.append(int(bounds[max(furthest, following)]))
    width = int(np.diff(cuts).max())
    firsts = [min(start, total - width) for start in cuts[:-1]]
    return [
        _Span(start, stop, slice(first, first + width))
        for start, stop, first in zip(cuts[:-1], cuts[1:], firsts, strict=True)
    ]


class _Pass:
    """One pass over all tiles, captions in the order of their videos."""

    def __init__(self, tiles: Tiles, text_video: Tensor, failed: Tensor, side: int) -> None:
        self.tiles, self.failed, self.text_video = tiles, failed.cpu().numpy(), text_video.cpu().numpy()
        self.order = np.argsort(self.text_video, kind="stable")
        self.video_of = self.text_video[self.order]
        videos = np.arange(len(failed) + 1)
        self.sets = np.searchsorted(self.video_of, videos)  # (V + 1,): where the captions of each video begin
        self.text_spans, self.video_spans = _spans(self.sets, side), _spans(videos, side)

    def ranks(self) -> dict[str, Ranks]:
        texts, videos = len(self.order), len(self.failed)
        target, kept = self._targets()
        best = np.maximum.reduceat(target, self.sets[:-1])  # of a video's own captions (V,)
        t2v, of_captions, of_sets = _Direction(target), _Direction(best), _Direction(best)
        for rows in self.text_spans:
            captions, tile_of = self.order[rows.start : rows.stop], self._row(rows)
            for columns in self.video_spans:
                tile = kept.pop((rows.start, columns.start), None)
                tile = tile_of(columns) if tile is None else tile
                clips, own = np.arange(columns.start, columns.stop), self._pairs(rows, columns)
                t2v.count(tile, slice(rows.start, rows.stop), clips, own)
                of_captions.count(tile.T, slice(columns.start, columns.stop), captions, (own[1], own[0]))
                if texts > videos:
                    self._count_sets(of_sets, tile, rows, columns)
        found = {"t2v": t2v.ranks(videos, self.failed[self.video_of]).taken(np.argsort(self.order))}
        by_caption = of_captions.ranks(texts, self.failed, hits_of_lost=False)
        if texts == videos:
            return found | {"v2t": by_caption}
        return found | {"v2t": of_sets.ranks(videos, self.failed, hits_of_lost=False), "v2t_captions": by_caption}

    def _targets(self) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
        """The score of each caption (M,) with its video, and the tiles that they stand in, by where those start."""
        target = np.empty(len(self.order), dtype=np.float32)
        kept: dict[tuple[int, int], np.ndarray] = {}
        for rows in self.text_spans:
            tile_of = self._row(rows)
            for columns in self.video_spans:
                own = self._pairs(rows, columns)
                if len(own[0]):
                    kept[rows.start, columns.start] = tile = tile_of(columns)
                    target[rows.start + own[0]] = tile[own]
        return target, kept

    def _row(self, rows: _Span) -> Callable[[_Span], np.ndarray]:
        """Gives the tiles of some captions, cut to what counts."""
        scores_with = self.tiles(torch.from_numpy(self.order[rows.held]))
        return lambda columns: scores_with(columns.held).cpu().numpy()[rows.counting, columns.counting]

    def _pairs(self, rows: _Span, columns: _Span) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the tile where a caption meets its video."""
        if self.video_of[rows.stop - 1] < columns.start or columns.stop <= self.video_of[rows.start]:
            return _NO_PAIRS
        videos = self.video_of[rows.start : rows.stop]
        inside = np.arange(*np.searchsorted(videos, (columns.start, columns.stop)))
        return inside, videos[inside] - columns.start

    def _count_sets(self, direction: _Direction, tile: np.ndarray, rows: _Span, columns: _Span) -> None:
        """A set of captions scores what its best caption does; a span of captions holds whole sets."""
        sets = np.arange(self.video_of[rows.start], self.video_of[rows.stop - 1] + 1)
        scores = np.maximum.reduceat(tile, self.sets[sets] - rows.start, axis=0)
        both = np.arange(max(sets[0], columns.start), min(sets[-1] + 1, columns.stop))
        direction.count(scores.T, slice(columns.start, columns.stop), sets, (both - columns.start, both - sets[0]))


class _Direction:
    """What was counted of some queries so far.

    Args:
        target: what their targets score (Q,).
    """

    def __init__(self, target: np.ndarray) -> None:
        self.target = target
        self.greater, self.equal = np.zeros((2, len(target)), dtype=np.int32)
        self.hit_score = np.full((len(target), HITS), -np.inf, dtype=np.float32)
        self.hit_item = np.full((len(target), HITS), _NO_ITEM)
        self.worst, self.worst_item = self.hit_score[:, -1].copy(), self.hit_item[:, -1].copy()
        self.waiting = 0
        self.found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # queries, scores, items, (N,) each

    def count(self, tile: np.ndarray, queries: slice, items: np.ndarray, own: tuple[np.ndarray, np.ndarray]) -> None:
        """Counts a tile.

        Args:
            tile: scores (C, G); as before when it returns.
            queries: which they are, C of them.
            items: of the gallery (G,).
            own: rows and columns of queries with their own items.
        """
        scores = tile[own] if len(own[0]) else None
        if scores is not None:
            tile[own] = -np.inf
        for strip, some in _strips(tile, queries):
            rivals, target = torch.from_numpy(strip), torch.from_numpy(self.target[some, None])
            # Ones and zeros, which fp32 adds exactly: torch compares floats into bool in four times the time.
            marks = torch.empty_like(rivals)
            self.greater[some] += torch.gt(rivals, target, out=marks).sum(1).int().numpy()
            self.equal[some] += torch.eq(rivals, target, out=marks).sum(1).int().numpy()
        if scores is not None:
            tile[own] = scores
        self._look_for_hits(tile, queries, items)

    def ranks(self, gallery_size: int, lost: np.ndarray, hits_of_lost: bool = True) -> Ranks:
        """What was found; lost queries (Q,) get the worst rank."""
        if self.waiting:
            self._keep_hits()
        equal = np.where(lost, 0, self.equal)
        ranks = np.where(lost, gallery_size, 1 + self.greater + (equal + 1) // 2).astype(np.int32)
        none = (self.hit_item == _NO_ITEM) | (lost[:, None] & (not hits_of_lost))
        hits = np.where(none, -1, self.hit_item).astype(np.int32)
        return Ranks(torch.from_numpy(ranks), int(np.count_nonzero(equal)), gallery_size, torch.from_numpy(hits))

    def _look_for_hits(self, tile: np.ndarray, queries: slice, items: np.ndarray) -> None:
        row, column = _where(tile > self._below_hits(tile, queries, items)[:, None])
        score = tile[row, column]
        self.found.append((queries.start + row, score, items[column]))
        self.waiting += len(row)
        if self.waiting >= HITS * len(tile):  # about as often as twice the items were seen
            self._keep_hits()

    def _keep_hits(self) -> None:
        """Keeps the best of what was found; until then `_below_hits` is lower than it could be."""
        query, score, item = (np.concatenate(each) for each in zip(*self.found, strict=True))
        self.found, self.waiting = [], 0
        seen = np.zeros(len(self.target), dtype=bool)
        seen[query] = True
        queries = np.flatnonzero(seen)
        owner = np.concatenate([query, np.repeat(queries, HITS)])
        score = np.concatenate([score, self.hit_score[queries].ravel()])
        item = np.concatenate([item, self.hit_item[queries].ravel()])
        order = _best_first(owner, score, item)
        first = np.searchsorted(owner[order], queries)
        best = order[first[:, None] + np.arange(HITS)]
        self.hit_score[queries], self.hit_item[queries] = score[best], item[best]
        self.worst[queries], self.worst_item[queries] = score[best[:, -1]], item[best[:, -1]]

    def _below_hits(self, tile: np.ndarray, queries: slice, items: np.ndarray) -> np.ndarray:
        """Scores (C,) above which an item may be among a query's hits; few others are."""
        worst = self.worst[queries]
        # An item that scores the same counts where its index is lower.
        just_below = np.nextafter(worst, _LOWEST)
        below = np.where(self.worst_item[queries] < items.min(), worst, just_below)
        if worst.min() == _LOWEST:
            return np.maximum(below, np.nextafter(_third_best(tile), _LOWEST))
        return below


def _strips(tile: np.ndarray, queries: slice) -> Iterator[tuple[np.ndarray, slice]]:
    """Parts of a tile (C, G) that lie together in memory and fit a core's cache, and whose queries they are."""
    if tile.strides[0] < tile.strides[1]:
        for first in range(0, tile.shape[1], _STRIP):
            yield tile[:, first : first + _STRIP], queries
        return
    for first in range(0, len(tile), _STRIP):
        strip = tile[first : first + _STRIP]
        yield strip, slice(queries.start + first, queries.start + first + len(strip))


def _third_best(tile: np.ndarray) -> np.ndarray:
    """At most what the third best item of each row (C, G) scores, and seldom much less: (C,)."""
    best = tile
    while best.shape[1] >= 2 * _PARTS:  # halves, column by column: the best of as many sets
        half = best.shape[1] // 2
        best = np.maximum(best[:, :half], best[:, half : 2 * half])
    if best.shape[1] < HITS:
        return np.full(len(tile), -np.inf, dtype=np.float32)
    return np.partition(best, -HITS, axis=1)[:, -HITS]


def _best_first(owner: np.ndarray, score: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The order (N,) by owner, then from the highest score down, of equal ones from the lowest item up."""
    # The bits of floats order as whole numbers do, but for negative ones, which order the other way round.
    bits = (score + np.float32(0)).view(np.int32)  # a zero without sign
    descending = np.where(bits < 0, bits & np.int32(2**31 - 1), ~bits)
    key = (owner << 32) + descending
    order = np.argsort(key)
    if (np.diff(key[order]) == 0).any():
        return np.lexsort((item, key))  # several times slower
    return order


def _where(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is True; faster than `nonzero` of two dimensions, in either order of memory."""
    if not found.flags.c_contiguous:
        columns, rows = _where(np.ascontiguousarray(found.T))
        return rows, columns
    rows, columns = np.divmod(np.flatnonzero(found), found.shape[1])
    return rows, columns
