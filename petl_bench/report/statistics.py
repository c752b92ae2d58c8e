"""Intervals and tests of figures that are means or medians over queries.

Queries are resampled, the gallery is not. Those that belong together (all captions of a video, all questions about it,
also where several clips are parts of one file, or one is another in reverse) are resampled whole: their figures are
correlated, and an interval that ignores it is too short. Where a configuration has several seeds, the figure is the
mean over them, and a resample moves it as far as Student's t lets a mean of so few lie from that of all seeds:
resampling two to five seeds says too little. The two sources of variance are crossed (every seed answers the same
queries): a resample draws one set of queries for all its seeds.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), 13.3 (percentile interval); Davison and
Hinkley, Bootstrap Methods and their Application (1997), 3.8 (clusters, several levels); Student, The probable error of
a mean (Biometrika 1908; seeds); Weerahandi, Generalized confidence intervals (Journal of the American Statistical
Association 1993; the two together); McNemar (Psychometrika 1947), exact as the binomial test of
discordant pairs; Phipson and Smyth (Statistical Applications in Genetics and Molecular Biology 2010; a p of random
permutations is never zero); Holm (Scandinavian Journal of Statistics 1979).

Everything is seeded and depends on the arguments alone. Clusters are drawn in the order of their labels, so that the
order of queries does not matter as long as each keeps its label; arguments of equal labels share their resamples, so
that distributions may be subtracted (paired) and added query by query.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

#: resamples of a bootstrap, and sign flips of a test that are drawn where there are more than that
RESAMPLES = 10_000
#: percent of resamples that an interval holds
CONFIDENCE = 95.0
_SEED = 2026
#: numbers in a block of resamples (float64), and bytes of resamples that are kept for further figures
_BLOCK, _KEPT_BYTES = 2**20, 2**26
#: ranks among which medians are looked for at a time
_THRESHOLDS = 256
#: sums of floats may differ in their last digits with the linear algebra library of a machine, figures must not
_DECIMALS = 6


class Paired(NamedTuple):
    """The difference of two configurations on the same queries.

    Attributes:
        delta: ours minus theirs, each the mean over seeds.
        low: of its 95 % interval.
        high: of its 95 % interval.
        p: two-sided; above zero.
        test: `mcnemar` (exact) or `sign-flip` (permutation).
    """

    delta: float
    low: float
    high: float
    p: float
    test: str


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether each 1-based rank (N,) is at most k: 100.0 or 0.0, so that the mean is R@k in percent."""
    return np.where(np.asarray(ranks) <= k, 100.0, 0.0)


def paired(
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    clusters: np.ndarray,
    kind: Literal["hit", "rank", "score"],
) -> Paired:
    """Difference of means over queries between two configurations that answered the same ones.

    Hits of single seeds on queries that are resampled alone: exact McNemar test. All else (ranks, scores of answers,
    several seeds, clusters): sign-flip permutation test of the differences, averaged over seeds and added up in each
    cluster, with the difference of the means as its statistic; of all sign flips where these are no more than
    `RESAMPLES`.

    Args:
        ours: of each query (N,), one array per seed; hits as `recall` gives them.
        theirs: the same of the other configuration, whose seeds are others.
        clusters: label of what each query is resampled with (N,), integers.
        kind: of the values.

    Raises:
        ValueError: there is no query, the lengths differ, a value is not finite, or hits have more than two values.
    """
    low, high = interval(
        mean_over_seeds([resampled_means(seed, clusters) for seed in ours])
        - mean_over_seeds([resampled_means(seed, clusters) for seed in theirs], stream=1)
    )
    difference = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    delta = round(float(difference.mean()), _DECIMALS) + 0.0  # no -0.0
    if kind == "hit" and len(np.unique(np.concatenate([*ours, *theirs]))) > 2:
        raise ValueError("hits have two values; what has more is a score")
    if kind == "hit" and len(ours) == len(theirs) == 1 and len(np.unique(clusters)) == len(clusters):
        return Paired(delta, low, high, mcnemar(ours[0], theirs[0]), "mcnemar")
    return Paired(delta, low, high, float(sign_flip(cluster_sums(difference, clusters))[0]), "sign-flip")


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of one family of tests, adjusted so that one of them is wrong with the probability that each states.

    Holm's step-down procedure; valid whatever the dependence between the tests.
    """
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(order), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * left)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def resampled_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Means over queries in every resample.

    Args:
        values: (N,) or, of several figures of the same queries, (N, F).
        clusters: as of `paired`.

    Returns:
        (RESAMPLES, F)

    Raises:
        ValueError: there is no query, the lengths differ, or a value is not finite.
    """
    return resampled_ratios(cluster_sums(values, clusters), cluster_sums(np.ones(len(clusters)), clusters))


def resampled_ratios(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The same of values that are added up: in figure f, cluster c has so many queries and so large a sum of values.

    Args:
        sums: (C, F)
        sizes: (C, F), or (C, 1) where all figures are of the same queries.

    Returns:
        (RESAMPLES, F); NaN where a resample has no query of a figure.
    """
    figures = sums.shape[1]
    drawn = _resampled_sums(np.hstack([sums, sizes]))
    with np.errstate(invalid="ignore"):
        return drawn[:, :figures] / drawn[:, figures:]


def resampled_medians(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Medians over queries in every resample, as `numpy.median` of the repeated values would be.

    Args:
        values: (N,) or (N, F)
        clusters: as of `paired`.

    Returns:
        (RESAMPLES, F)

    Raises:
        ValueError: there is no query, the lengths differ, or a value is not finite.
    """
    _require_values(values, clusters)
    columns = np.asarray(values).reshape(len(values), -1)
    _, cluster = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(cluster)  # (C,)
    # Five standard deviations of the share of values below the median, if those of a cluster were all alike.
    width = 2.5 * float(np.sqrt((sizes.astype(float) ** 2).sum())) / len(values)
    medians = np.empty((RESAMPLES, columns.shape[1]))
    left = list(range(columns.shape[1]))
    while left:
        windows = [_window(columns[:, figure], width) for figure in left]
        lower, upper = _middles(windows, cluster, sizes)
        missed = []
        for place, (figure, window) in enumerate(zip(left, windows, strict=True)):
            if not window.holds(lower[:, place], upper[:, place]):
                missed.append(figure)
                continue
            medians[:, figure] = (window.values[lower[:, place]] + window.values[upper[:, place]]) / 2
        left, width = missed, 2 * width
    return medians


def mean_over_seeds(resampled: Sequence[np.ndarray], stream: int = 0) -> np.ndarray:
    """Means over seeds, moved in every resample by what these do not tell of other seeds.

    The move is a normal combination of the seeds' deviations from their mean, scaled so that over resamples it is
    t-distributed with one degree of freedom less than there are seeds, times their standard error. It is the same
    whichever queries are drawn, so that the two variances add up.

    Args:
        resampled: (RESAMPLES, F), one per seed, of the same queries.
        stream: of random numbers; another one for a configuration that is compared, whose seeds are others.

    Returns:
        (RESAMPLES, F)

    Raises:
        ValueError: there is no seed.
    """
    if not resampled:
        raise ValueError("no seed")
    if len(resampled) == 1:
        return resampled[0]
    seeds = len(resampled)
    draw = np.random.default_rng([_SEED, seeds, stream])
    moves = draw.standard_normal((RESAMPLES, seeds)) / np.sqrt(seeds * draw.chisquare(seeds - 1, (RESAMPLES, 1)))
    of_seeds = np.stack([np.nanmean(one, axis=0) for one in resampled])  # (seeds, F)
    return sum(resampled, np.zeros(1)) / seeds + moves @ (of_seeds - of_seeds.mean(axis=0))


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """Percentile interval of one figure: what 95 % of its resamples (RESAMPLES,) or (RESAMPLES, 1) lie between."""
    low, high = intervals(resampled.reshape(-1, 1))[0]
    return low, high


def intervals(resampled: np.ndarray) -> list[tuple[float, float]]:
    """The same of each column of (RESAMPLES, F); a resample that says nothing of a figure (NaN) is left out."""
    tail = (100 - CONFIDENCE) / 2
    percentile = np.nanpercentile if np.isnan(resampled).any() else np.percentile
    low, high = percentile(resampled, [tail, 100 - tail], axis=0).round(_DECIMALS)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Exact two-sided p that two configurations hit equally often; hits (N,), above zero where it is one."""
    only_ours, only_theirs = int(((ours > 0) & (theirs <= 0)).sum()), int(((theirs > 0) & (ours <= 0)).sum())
    discordant = only_ours + only_theirs
    term = total = 1  # binomial coefficients of `discordant`, from 0
    for hits in range(min(only_ours, only_theirs)):
        term = term * (discordant - hits) // (hits + 1)
        total += term
    return min(1.0, max(2 * total / 2**discordant, sys.float_info.min))


def sign_flip(differences: np.ndarray) -> np.ndarray:
    """Two-sided p that differences lie around zero, by flipping the signs of whole clusters.

    Args:
        differences: of each cluster (C,) or, for several figures, (C, F), added up over its queries; six decimals
            count.

    Returns:
        (F,)
    """
    # What means over seeds leave of equal sums is rounding, which would flip like a difference.
    columns = np.asarray(differences, dtype=float).reshape(len(differences), -1).round(_DECIMALS)
    p = np.ones(columns.shape[1])
    moved = (columns != 0).sum(axis=0)
    few = moved <= np.log2(RESAMPLES)
    for figure in np.flatnonzero(few):
        p[figure] = _every_flip(columns[columns[:, figure] != 0, figure])
    many = np.flatnonzero(~few)
    if len(many):
        p[many] = _random_flips(columns[:, many])
    return p


def cluster_sums(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Values (N,) or (N, F) added up in each cluster, in the order of labels: (C, F).

    Raises:
        ValueError: there is no query, the lengths differ, or a value is not finite.
    """
    _require_values(values, clusters)
    columns = np.asarray(values, dtype=float).reshape(len(values), -1)
    labels, cluster = np.unique(clusters, return_inverse=True)
    sums = [np.bincount(cluster, weights=column, minlength=len(labels)) for column in columns.T]
    return np.stack(sums, axis=1)


def _require_values(values: np.ndarray, clusters: np.ndarray) -> None:
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values of {len(clusters)} queries")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")


class _Window(NamedTuple):
    """Values among which a median is looked for.

    Attributes:
        values: distinct ones, ascending (T,).
        place: of each of the N values among them; 0 for smaller ones, too, T for larger ones.
        lowest: whether none is smaller.
    """

    values: np.ndarray
    place: np.ndarray
    lowest: bool

    def holds(self, lower: np.ndarray, upper: np.ndarray) -> bool:
        """Whether the places of the two middle values of each resample are known to be theirs."""
        return bool((self.lowest or lower.min() > 0) and upper.max() < len(self.values))


def _window(values: np.ndarray, width: float) -> _Window:
    """The distinct values between two quantiles, and one more below to tell when a median is."""
    distinct, place = np.unique(values, return_inverse=True)
    share = np.cumsum(np.bincount(place)) / len(values)
    first = max(0, int(np.searchsorted(share, 0.5 - width)) - 1)
    last = min(int(np.searchsorted(share, 0.5 + width)), len(distinct) - 1)
    return _Window(distinct[first : last + 1], np.clip(place - first, 0, last + 1 - first), first == 0)


def _middles(windows: list[_Window], cluster: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the two middle values, (RESAMPLES, F) each, which are one and the same of an odd number.

    Args:
        windows: of each figure.
        cluster: of each value (N,).
        sizes: of clusters (C,).
    """
    lower, upper = (np.zeros((RESAMPLES, len(windows)), dtype=int) for _ in range(2))
    for pieces in _batches([len(window.values) for window in windows]):
        # of each cluster, how many values are no larger than each threshold
        counts = [_up_to(windows[figure].place, start, stop, cluster, len(sizes)) for figure, start, stop in pieces]
        drawn = _resampled_sums(np.hstack([*counts, sizes[:, None]]))
        total, column = drawn[:, -1:], 0
        for figure, start, stop in pieces:
            below = drawn[:, column : column + stop - start]
            lower[:, figure] += (below < (total + 1) // 2).sum(axis=1)
            upper[:, figure] += (below < total // 2 + 1).sum(axis=1)
            column += stop - start
    return lower, upper


def _batches(widths: list[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Pieces of windows (figure, start, stop), as many at a time as are calculated at once."""
    batch: list[tuple[int, int, int]] = []
    room = _THRESHOLDS
    for figure, width in enumerate(widths):
        start = 0
        while start < width:
            stop = min(width, start + room)
            batch.append((figure, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield batch
                batch, room = [], _THRESHOLDS
    if batch:
        yield batch


def _up_to(place: np.ndarray, start: int, stop: int, cluster: np.ndarray, clusters: int) -> np.ndarray:
    """Values of each cluster at each place or before it, from start to stop (C, T)."""
    wide = stop - start + 1
    counts = np.bincount(cluster * wide + np.clip(place - start, 0, wide - 1), minlength=clusters * wide)
    return np.cumsum(counts.reshape(clusters, wide)[:, :-1], axis=1)


def _resampled_sums(columns: np.ndarray) -> np.ndarray:
    """Sums over clusters in every resample: (C, F) to (RESAMPLES, F)."""
    return np.concatenate(_products(columns, "weights"))


def _products(columns: np.ndarray, kind: Literal["weights", "signs"]) -> list[np.ndarray]:
    """Blocks of random numbers times columns, (B, F) each."""
    # Sums of whole numbers are exact in float32, too, as long as they are small, and take half the time.
    largest = np.abs(columns).sum(axis=0) if kind == "signs" else np.abs(columns).max(axis=0) * len(columns)
    exact = (largest < 2**24) & (columns == np.rint(columns)).all(axis=0)
    factors = [(mask, columns[:, mask].astype(dtype)) for mask, dtype in ((exact, np.float32), (~exact, np.float64))]
    products = []
    for block in _drawn(kind, len(columns)):
        product = np.empty((len(block), columns.shape[1]))
        for mask, factor in factors:
            if factor.size:
                product[:, mask] = block.astype(factor.dtype) @ factor
        products.append(product)
    return products


_kept: OrderedDict[tuple[str, int], list[np.ndarray]] = OrderedDict()


def _drawn(kind: Literal["weights", "signs"], clusters: int) -> Iterable[np.ndarray]:
    """Random numbers in blocks (B, clusters) of bytes, always the same ones; kept while there is room.

    Args:
        kind: `weights`: how often each resample holds each cluster; `signs`: 1 where a flip leaves it as it is, else 0.
        clusters: how many.
    """
    draw = _weights if kind == "weights" else _signs
    rows = max(1, min(RESAMPLES, _BLOCK // clusters))
    blocks = (draw(clusters, start, min(rows, RESAMPLES - start)) for start in range(0, RESAMPLES, rows))
    key = kind, clusters
    if key not in _kept:
        if RESAMPLES * clusters > _KEPT_BYTES:
            return blocks
        _kept[key] = list(blocks)
        while sum(block.nbytes for kept in _kept.values() for block in kept) > _KEPT_BYTES:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _weights(clusters: int, start: int, count: int) -> np.ndarray:
    """That a cluster is drawn 256 times, which a byte could not hold, has no probability worth the name."""
    drawn = np.random.default_rng([_SEED, clusters, start]).integers(0, clusters, (count, clusters))
    drawn += clusters * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.uint8)


def _signs(clusters: int, start: int, count: int) -> np.ndarray:
    return np.random.default_rng([_SEED, clusters, start, 1]).integers(0, 2, (count, clusters), dtype=np.uint8)


def _every_flip(differences: np.ndarray) -> float:
    """Share of all sign flips of (C,) that lie as far from zero as the differences themselves."""
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    return float((np.abs(sums) >= _as_far(differences[:, None])).mean())


def _random_flips(differences: np.ndarray) -> np.ndarray:
    """The same estimated for each column of (C, F), the differences themselves counted among the flips."""
    total, far = differences.sum(axis=0), _as_far(differences)
    # What keeps its sign, minus the rest.
    as_far = [(np.abs(2 * kept - total) >= far).sum(axis=0) for kept in _products(differences, "signs")]
    return (np.sum(as_far, axis=0) + 1) / (RESAMPLES + 1)


def _as_far(differences: np.ndarray) -> np.ndarray:
    """What the sum of each column counts as far from zero as: rounding must not part equal sums."""
    return np.abs(differences.sum(axis=0)) - 1e-9 * np.abs(differences).sum(axis=0)
