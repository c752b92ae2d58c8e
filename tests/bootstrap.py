"""The interval of a single figure, as reports calculate those of all figures of a configuration at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from petl_bench.report.statistics import interval, mean_over_seeds, resampled_means, resampled_medians


def bootstrap(
    values: Sequence[np.ndarray], clusters: np.ndarray, statistic: Literal["mean", "median"]
) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds of a statistic over queries; values (N,), one array per seed."""
    resampled = resampled_means if statistic == "mean" else resampled_medians
    return interval(mean_over_seeds([resampled(seed, clusters) for seed in values]))
