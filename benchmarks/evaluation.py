"""Ranks of retrieval in both directions: one pass, a pass for each direction, and the whole matrix sorted.

    python -m benchmarks.evaluation [--items 1000 5000 10000] [--rounds 5] [--json FILE]

Features are random, 512 numbers each, one caption per video. All three take turns in this process, on one thread;
seconds are those of the processor, products included: medians, and of the ratios their median and half of their
interquartile range. Peak memory is what a side takes beside the features, in a process of its own.

The peer does what CLIP4Clip's evaluation does, written from its description: the matrix of all similarities as NumPy's,
each row sorted, and the place of the diagonal's value in it; then the same of the transposed one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl_bench.metrics.retrieval import ranks_of_directions, text_to_video_ranks, video_to_text_ranks
from petl_bench.metrics.scores import scores_of_features

WIDTH = 512


def one_pass(text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """As `test` does it."""
    found = ranks_of_directions(scores_of_features(text, video), torch.arange(len(text)))
    return found["t2v"].ranks, found["v2t"].ranks


def two_passes(text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """A product for each direction, in rows: what scores with two orders still need."""
    scores, pairs = scores_of_features(text, video), torch.arange(len(text))
    return text_to_video_ranks(scores, pairs).ranks, video_to_text_ranks(scores, pairs).ranks


def whole_matrix(text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """The peer: a dense matrix whose rows are sorted."""
    similarity = (text @ video.T).numpy()
    return _places(similarity), _places(similarity.T)


def _places(similarity: np.ndarray) -> Tensor:
    descending = np.sort(-similarity, axis=1)
    own = -np.diag(similarity)[:, None]
    _, places = np.nonzero(descending - own == 0)
    return torch.from_numpy(places + 1)


SIDES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "one_pass": one_pass,
    "two_passes": two_passes,
    "whole_matrix": whole_matrix,
}


def features(items: int) -> tuple[Tensor, Tensor]:
    """Captions near their videos, as after training: (N, 512) each, of length 1."""
    generator = torch.Generator().manual_seed(items)
    video = torch.randn(items, WIDTH, generator=generator)
    text = 0.2 * video + torch.randn(items, WIDTH, generator=generator)
    return torch.nn.functional.normalize(text, dim=1), torch.nn.functional.normalize(video, dim=1)


def measured(items: int, rounds: int) -> dict[str, Any]:
    """Medians of seconds, and ratios to the first side, at a number of items."""
    pair = features(items)
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    ranks = {name: [found.tolist() for found in side(*pair)] for name, side in SIDES.items()}  # warms up, too
    for turn in range(rounds):
        names = list(SIDES)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            SIDES[name](*pair)
            seconds[name].append(time.process_time() - began)
    found: dict[str, Any] = {"items": items}
    for name, took in seconds.items():
        found[name] = {"seconds": round(statistics.median(took), 4), "peak_mb": _peak_mb(name, items)}
    for name in ("two_passes", "whole_matrix"):
        ratios = [other / own for other, own in zip(seconds[name], seconds["one_pass"], strict=True)]
        found[f"{name} / one_pass"] = {"median": round(statistics.median(ratios), 2), "noise": _noise(ratios)}
        found[f"ranks that {name} gives otherwise"] = sum(
            mine != other
            for ours, others in zip(ranks["one_pass"], ranks[name], strict=True)
            for mine, other in zip(ours, others, strict=True)
        )
    return found


def _noise(ratios: list[float]) -> float:
    low, _, high = statistics.quantiles(ratios, n=4)
    return round((high - low) / 2, 2)


def _peak_mb(name: str, items: int) -> int:
    """How much the peak memory of a fresh process grows."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (name, items))


def _grown(name: str, items: int) -> int:
    torch.set_num_threads(1)
    SIDES[name](*features(64))  # libraries take their buffers
    pair = features(items)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    SIDES[name](*pair)
    return round((_peak() - before) / 1e3)


def _peak() -> int:
    """Most kilobytes that this process has held."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux has it"
    return int(found[1])


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
