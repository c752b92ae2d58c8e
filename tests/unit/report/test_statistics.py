"""Against enumerations of all resamples and sign flips, exact fractions, and plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petl_bench.report import statistics
from petl_bench.report.statistics import holm, interval, mcnemar, paired, recall, sign_flip
from tests.bootstrap import bootstrap

RANDOM = np.random.default_rng(0)
Figure = Callable[[np.ndarray], float]


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> int:
    """For what takes long, or need not be close."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    monkeypatch.setattr(statistics, "_kept", type(statistics._kept)())
    return 500


def every_resample(values: np.ndarray, clusters: np.ndarray, figure: Figure) -> list[float]:
    """A figure in every one of the equally probable resamples of clusters."""
    labels = np.unique(clusters)
    return [
        figure(np.concatenate([values[clusters == label] for label in chosen]))
        for chosen in itertools.product(labels, repeat=len(labels))
    ]


def largest_gap(sample: np.ndarray, exact: list[float]) -> float:
    """Kolmogorov-Smirnov distance; with 10,000 values above 0.02 once in 1,500 samples."""
    points = np.unique(np.round(exact, 9)) + 1e-6
    shares = [np.searchsorted(np.sort(values), points) / len(values) for values in (sample, np.array(exact))]
    return float(np.abs(shares[0] - shares[1]).max())


CLUSTERED = [
    pytest.param(np.array([0, 1, 2, 3, 4]), id="alone"),
    pytest.param(np.array([7, 7, 3, 3, 3, 9, 2, 2, 2, 2]), id="unequal"),
    pytest.param(np.array([4, 4, 4]), id="one"),
]


@pytest.mark.parametrize("clusters", CLUSTERED)
def test_resamples_are_those_of_an_enumeration(clusters: np.ndarray) -> None:
    values = RANDOM.integers(1, 9, len(clusters))
    for resampled, figure in ((statistics.resampled_means, np.mean), (statistics.resampled_medians, np.median)):
        ours = statistics.mean_over_seeds([resampled(values, clusters)])
        exact = every_resample(values, clusters, figure)
        assert largest_gap(ours[:, 0], exact) < 0.02
        low, high = interval(ours)
        shares = [np.mean(np.array(exact) < low - 1e-6), np.mean(np.array(exact) > high + 1e-6)]
        assert max(shares) < 0.025 + 0.01


def test_an_interval_is_that_of_a_plain_loop() -> None:
    clusters, values = np.repeat(np.arange(40), 3), recall(RANDOM.integers(1, 20, 120), 5)
    loop = np.random.default_rng(1)
    means, medians = [], []
    for _ in range(10_000):
        drawn = values.reshape(40, 3)[loop.integers(0, 40, 40)]
        means.append(drawn.mean())
        medians.append(np.median(drawn))
    assert bootstrap([values], clusters, "mean") == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.9)
    assert bootstrap([values], clusters, "median") == tuple(np.percentile(medians, [2.5, 97.5]))


@given(data=st.data(), clusters=st.lists(st.integers(0, 9), min_size=1, max_size=60), largest=st.sampled_from([3, 999]))
def test_medians_are_numpys(data: st.DataObject, clusters: list[int], largest: int) -> None:
    size = len(clusters)
    values = np.array(data.draw(st.lists(st.integers(1, largest), min_size=size, max_size=size)))
    medians = statistics.resampled_medians(values, np.array(clusters))
    place = np.unique(clusters, return_inverse=True)[1]
    weights = next(iter(statistics._drawn("weights", place.max() + 1)))[:30].astype(int)
    assert medians[:30, 0].tolist() == [np.median(np.repeat(values, times[place])) for times in weights]


def test_medians_are_found_however_far_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """More ranks than are looked at in one go; and a heavy cluster that moves the median where nobody looked first."""
    monkeypatch.setattr(statistics, "_THRESHOLDS", 3)
    clusters = np.concatenate([np.zeros(300, dtype=int), np.arange(1, 400)])
    values = np.concatenate([np.full(300, 900), RANDOM.integers(1, 800, 399)])
    weights = next(iter(statistics._drawn("weights", 400)))[:200].astype(int)
    plain = [np.median(np.repeat(values, times[clusters])) for times in weights]
    several = np.stack([values, np.ones_like(values), values + 1], axis=1)
    medians = statistics.resampled_medians(several, clusters)[:200].T
    assert medians.tolist() == [plain, [1] * 200, [value + 1 for value in plain]]


def test_means_of_some_queries_are_those_of_these_alone() -> None:
    clusters, values = np.arange(30) // 2, RANDOM.random((30, 2))
    some = np.stack([np.arange(30) < 4, np.ones(30)], axis=1)
    sums, sizes = (statistics.cluster_sums(columns, clusters) for columns in (some * values, some))
    resampled = statistics.resampled_ratios(sums, sizes)
    weights = next(iter(statistics._drawn("weights", 15)))[:50]
    with np.errstate(invalid="ignore"):
        plain = [(w[:2] @ values[:4, 0].reshape(2, 2).sum(1)) / (2 * w[:2].sum()) for w in weights]
    np.testing.assert_allclose(resampled[:50, 0], plain)
    assert np.isnan(resampled[:, 0]).any()  # a resample without any of them says nothing of their mean
    np.testing.assert_allclose(resampled[:, 1:], statistics.resampled_means(values[:, 1], clusters))
    low, high = statistics.intervals(resampled)[0]
    assert values[:4, 0].min() <= low < high <= values[:4, 0].max()


@pytest.mark.parametrize(("queries", "half"), [(670, 3.8), (1000, 3.1), (5000, 1.4)])
def test_half_widths_are_those_of_a_binomial(queries: int, half: float) -> None:
    """1.96 sqrt(p (1 - p) / n) of R@1 = 45 %."""
    low, high = bootstrap([np.where(np.arange(queries) < 0.45 * queries, 100.0, 0.0)], np.arange(queries), "mean")
    assert (high - low) / 2 == pytest.approx(half, abs=0.06)


def test_captions_of_a_video_tell_less_than_as_many_videos(few_resamples: int) -> None:
    """670 videos with 41 captions each, whose hits are correlated (0.49): the naive interval is 4.5 times too short."""
    rates = RANDOM.beta(0.468, 0.572, 670)
    hits = recall(np.where(RANDOM.random((670, 41)) < rates[:, None], 1, 2).ravel(), 1)
    deviations = []
    for clusters in (np.repeat(np.arange(670), 41), np.arange(670 * 41)):
        low, high = bootstrap([hits], clusters, "mean")
        deviations.append((high - low) / 2 / 1.96)
    assert deviations == [pytest.approx(1.36, abs=0.15), pytest.approx(0.30, abs=0.03)]


def test_clustered_intervals_cover_what_naive_ones_do_not(few_resamples: int) -> None:
    draw, videos, captions, truth = np.random.default_rng(5), 80, 10, 45.0
    clustered, naive = np.repeat(np.arange(videos), captions), np.arange(videos * captions)
    covered = np.zeros(2)
    for _ in range(120):
        rates = draw.beta(0.45, 0.55, videos)
        hits = recall(np.where(draw.random((videos, captions)) < rates[:, None], 1, 2).ravel(), 1)
        for way, clusters in enumerate((clustered, naive)):
            low, high = bootstrap([hits], clusters, "mean")
            covered[way] += low <= truth <= high
    assert covered[0] >= 0.89 * 120
    assert covered[1] <= 0.75 * 120


def test_intervals_of_several_seeds_are_wider_where_seeds_differ() -> None:
    clusters, hits = np.arange(200), recall(RANDOM.integers(1, 4, 200), 1)
    alone = bootstrap([hits], clusters, "mean")
    assert bootstrap([hits, hits, hits], clusters, "mean") == alone
    apart = bootstrap([np.zeros(200), np.full(200, 100.0), hits], clusters, "mean")
    assert apart[1] - apart[0] > 3 * (alone[1] - alone[0])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_seeds_alone_vary_the_interval_is_that_of_student(seeds: int) -> None:
    """Of seeds that were resampled, 50, 74 and 87 of 100 intervals held the truth."""
    student = {2: 12.706, 3: 4.303, 5: 2.776}[seeds]
    figures = np.random.default_rng(seeds).normal(50, 2, seeds)
    resampled = [np.full((statistics.RESAMPLES, 1), figure) for figure in figures]
    low, high = interval(statistics.mean_over_seeds(resampled))
    error = np.std(figures, ddof=1) / np.sqrt(seeds)
    assert (low + high) / 2 == pytest.approx(figures.mean(), abs=0.25 * student * error)
    assert (high - low) / 2 == pytest.approx(student * error, rel=0.1)


@pytest.mark.parametrize("shift", [0.0, 0.03])
def test_intervals_of_few_seeds_cover_other_seeds_and_queries(few_resamples: int, shift: float) -> None:
    draw, clusters, covered = np.random.default_rng(5), np.arange(150), 0
    for _ in range(120):
        easy = draw.random(150)
        hits = [100.0 * (draw.random(150) < easy + draw.normal(0, shift)) for _ in range(3)]
        low, high = bootstrap(hits, clusters, "mean")
        covered += low <= 50 <= high
    assert covered >= 0.92 * 120


def test_a_single_seed_is_as_it_was() -> None:
    clusters, values = np.arange(50), recall(np.random.default_rng(7).integers(1, 4, 50), 1)
    resampled = statistics.resampled_means(values, clusters)
    assert statistics.mean_over_seeds([resampled]) is resampled


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_mcnemar_is_the_sum_of_exact_fractions(only_ours: int, only_theirs: int, both: int) -> None:
    ours = recall(np.array([1] * only_ours + [2] * only_theirs + [1] * both), 1)
    theirs = recall(np.array([2] * only_ours + [1] * only_theirs + [1] * both), 1)
    discordant, least = only_ours + only_theirs, min(only_ours, only_theirs)
    tail = sum((Fraction(math.comb(discordant, k), 2**discordant) for k in range(least + 1)), Fraction(0))
    assert mcnemar(ours, theirs) == float(min(Fraction(1), 2 * tail))


def test_mcnemar_of_known_counts() -> None:
    """`scipy.stats.binomtest(5, 20)`, and (0, 10): 2 / 1024; more queries than a float has exponents for."""
    hits = np.array([100.0] * 20)
    assert mcnemar(hits, 0 * hits) == 2 / 2**20
    assert mcnemar(np.repeat([100.0, 0.0], [5, 15]), np.repeat([0.0, 100.0], [5, 15])) == 0.04138946533203125
    assert 0 < mcnemar(np.ones(5000), np.zeros(5000)) < 1e-300


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flips_are_those_of_an_enumeration(differences: list[int]) -> None:
    flips = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(a * b for a, b in zip(signs, differences, strict=True))) for signs in flips]
    exact = Fraction(sum(one >= abs(sum(differences)) for one in sums), len(sums))
    assert sign_flip(np.array(differences)).tolist() == [float(exact)]


def test_equal_sums_are_as_far_whatever_rounding_says() -> None:
    assert sign_flip(np.array([0.1, 0.2, -0.3])).tolist() == [1.0]
    assert sign_flip(np.array([0.7, 0.1, 0.3, 0.1])).tolist() == [2 / 16]


def test_rounding_is_no_difference() -> None:
    """One of two right in each cluster, whichever it is with a seed, is what all have."""
    clusters = np.arange(200).repeat(2)
    first = np.tile([100.0, 0.0], 200)
    ours, theirs = [first, 100 - first, first], [first] * 3
    dust = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    assert np.any(dust.reshape(-1, 2).sum(1) != 0)
    found = paired(ours, theirs, clusters, "score")
    assert (found.delta, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_random_sign_flips_are_close_to_all_of_them() -> None:
    differences = np.stack([RANDOM.normal(mean, 1, 16) for mean in (0.0, 0.3, 0.6)], axis=1)
    exact = [statistics._every_flip(column) for column in differences.T]
    assert sign_flip(differences) == pytest.approx(np.array(exact), abs=0.015)
    assert sign_flip(np.ones(64)).tolist() == [1 / 10_001]  # never zero
    assert sign_flip(np.zeros(64)).tolist() == [1.0]


def test_a_test_rejects_as_often_as_it_says(few_resamples: int) -> None:
    """Two methods of the same quality, clustered captions: a test of captions alone would reject in half the cases."""
    draw, clusters = np.random.default_rng(3), np.repeat(np.arange(40), 8)
    p = []
    for _ in range(200):
        shifts = np.repeat(draw.normal(0, 1, 40), 8)
        ranks = [1 + np.floor(np.exp(draw.normal(1, 0.5, 320) + half)) for half in (shifts / 2, -shifts / 2)]
        p.append(paired([ranks[0]], [ranks[1]], clusters, "rank").p)
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10


QUERIES = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(1, 12), min_size=n, max_size=n) for _ in range(3)), st.randoms())
)


@pytest.mark.parametrize("kind", ["hit", "rank", "score"])
@given(QUERIES)
def test_neither_the_order_of_queries_nor_of_methods_matters(kind: str, queries: tuple) -> None:
    ours, theirs, clusters = (np.array(values) for values in queries[:3])
    if kind == "hit":
        ours, theirs = recall(ours, 5), recall(theirs, 5)
    found = paired([ours], [theirs], clusters, kind)  # pyright: ignore[reportArgumentType]
    order = list(range(len(ours)))
    queries[3].shuffle(order)
    moved = paired([ours[order]], [theirs[order]], clusters[order], kind)  # pyright: ignore[reportArgumentType]
    assert moved == found
    back = paired([theirs], [ours], clusters, kind)  # pyright: ignore[reportArgumentType]
    assert (back.delta, back.p, back.test) == (-found.delta, found.p, found.test)
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    assert 0 < found.p <= 1
    same = paired([ours], [ours], clusters, kind)  # pyright: ignore[reportArgumentType]
    assert same[:4] == (0, 0, 0, 1)


def test_each_kind_has_its_test() -> None:
    hits, alone, together = [recall(np.arange(1, 9), 4)], np.arange(8), np.arange(8) // 2
    other = [recall(np.arange(8, 0, -1), 5)]
    assert paired(hits, other, alone, "hit").test == "mcnemar"
    assert paired(hits, other, together, "hit").test == "sign-flip"
    assert paired(hits * 2, other, alone, "hit").test == "sign-flip"
    assert paired(hits, other, alone, "rank").test == "sign-flip"
    assert paired(hits * 2, other, alone, "hit").delta == hits[0].mean() - other[0].mean()
    with pytest.raises(ValueError, match="score"):
        paired([np.array([0.0, 0.3, 1.0])], [np.zeros(3)], np.arange(3), "hit")


def test_a_paired_interval_is_shorter_than_the_two_apart() -> None:
    ranks = RANDOM.integers(1, 5, 300)
    ours, theirs = recall(ranks, 2), recall(np.where(RANDOM.random(300) < 0.05, 9, ranks), 2)
    found = paired([ours], [theirs], np.arange(300), "hit")
    low, high = bootstrap([ours], np.arange(300), "mean")
    assert found.low < found.delta < found.high
    assert found.high - found.low < (high - low) / 2


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(P_VALUES)
def test_holm_is_its_definition(p: list[float]) -> None:
    rejected = [sorted(p).index(value) for value in p]  # how many are smaller
    adjusted = holm(p)
    for value, found in zip(p, adjusted, strict=True):
        steps = [(len(p) - place) * one for one, place in zip(p, rejected, strict=True) if one <= value]
        assert found == min(1.0, max(steps))
        assert value <= found <= 1
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_holm_of_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_values_without_meaning_are_refused() -> None:
    for values, clusters in (([], []), ([1.0], [1, 2]), ([1.0, math.nan], [1, 2])):
        with pytest.raises(ValueError, match=r"queries|finite"):
            bootstrap([np.array(values)], np.array(clusters), "mean")
        with pytest.raises(ValueError, match=r"queries|finite"):
            bootstrap([np.array(values)], np.array(clusters), "median")
    with pytest.raises(ValueError, match="no seed"):
        bootstrap([], np.arange(3), "mean")


def test_resamples_that_are_kept_are_those_made_anew(monkeypatch: pytest.MonkeyPatch, few_resamples: int) -> None:
    first = [bootstrap([np.arange(size)], np.arange(size), "mean") for size in (30, 40, 50)]
    assert set(statistics._kept) == {("weights", size) for size in (30, 40, 50)}
    monkeypatch.setattr(statistics, "_KEPT_BYTES", few_resamples * 50)
    again = [bootstrap([np.arange(size)], np.arange(size), "mean") for size in (50, 30, 40)]
    assert again == [first[2], first[0], first[1]]
    statistics._kept.clear()
    again = [bootstrap([np.arange(size)], np.arange(size), "mean") for size in (30, 60)]
    assert again[0] == first[0]
    assert set(statistics._kept) == {("weights", 30)}  # the other one is too large to be kept
