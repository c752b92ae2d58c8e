"""Ranks of retrieval in both directions: one pass, a pass for each direction, and the whole matrix sorted.

    python -m benchmarks.evaluation [--items 1000 5000 10000] [--rounds 5] [--json FILE]

`python -m benchmarks.perf --only ranks-5000` measures the first against the last as users call it; here are the parts.
Features are random, 512 numbers each, one caption per video. All three take turns in this process, on one thread;
seconds are those of the processor, products included: medians, and of the ratios their median and half of their
interquartile range. Memory is what a side takes at most beside the features, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.perf.evaluation import added_bytes, features, ranked_by_sorting
from benchmarks.perf.rounds import cpu_seconds, interleave, ratio, summary
from petl_bench.metrics.retrieval import ranks_of_directions, text_to_video_ranks, video_to_text_ranks
from petl_bench.metrics.scores import scores_of_features

Ranks = dict[str, np.ndarray]


def one_pass(text: Tensor, video: Tensor) -> Ranks:
    """As `test` does it."""
    found = ranks_of_directions(scores_of_features(text, video), torch.arange(len(text)))
    return {way: found[way].ranks.numpy() for way in ("t2v", "v2t")}


def two_passes(text: Tensor, video: Tensor) -> Ranks:
    """A product for each direction, in rows: what scores with two orders still need."""
    scores, pairs = scores_of_features(text, video), torch.arange(len(text))
    found = {"t2v": text_to_video_ranks(scores, pairs), "v2t": video_to_text_ranks(scores, pairs)}
    return {way: of.ranks.numpy() for way, of in found.items()}


def whole_matrix(text: Tensor, video: Tensor) -> Ranks:
    """The peer: CLIP4Clip's way."""
    return ranked_by_sorting(text, video)


SIDES: dict[str, Callable[[Tensor, Tensor], Ranks]] = {
    "one_pass": one_pass,
    "two_passes": two_passes,
    "whole_matrix": whole_matrix,
}


def measured(items: int, rounds: int) -> dict[str, Any]:
    """Medians of seconds, ratios to the first side, and megabytes, at a number of items."""
    pair = features(items)
    ranks = {name: side(*pair) for name, side in SIDES.items()}
    costs = interleave(
        {name: lambda side=side: cpu_seconds(lambda: side(*pair)) for name, side in SIDES.items()}, rounds
    )
    found: dict[str, Any] = {"items": items}
    for name, side in SIDES.items():
        added = added_bytes(lambda side=side: side(*pair))
        found[name] = {"seconds": round(summary(costs[name]).value, 4), "added_mb": round(added / 1e6)}
    for name in ("two_passes", "whole_matrix"):
        found[f"{name} / one_pass"] = ratio(costs[name], costs["one_pass"])._asdict()
        found[f"ranks that {name} gives otherwise"] = sum(
            int(np.count_nonzero(ranks[name][way] != mine)) for way, mine in ranks["one_pass"].items()
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 5000, 10000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [measured(items, options.rounds) for items in options.items]
    told = json.dumps(found, indent=2)
    print(told)
    if options.json is not None:
        options.json.write_text(told + "\n")


if __name__ == "__main__":
    main()
