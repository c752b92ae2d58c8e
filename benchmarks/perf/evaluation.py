"""Ranks of both directions against CLIP4Clip's way in numpy, their growth, and pairs of the second stage."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.children import end_with
from benchmarks.perf.rounds import ROOT, Row, cpu_seconds, exponent, interleave, left_out, ratio, summary
from benchmarks.perf.steps import Sizes, write_vocabulary
from benchmarks.training_step import Checkout
from petl_bench.metrics.retrieval import RetrievalMetric
from petl_bench.runs.cost import AddedMemory

_WIDTH = 512
#: of an evaluation by CLIP4Clip, unless it is told otherwise
_BATCH = 3500


def features(count: int) -> tuple[Tensor, Tensor]:
    """Of as many captions and clips, (N, E) each, normalised, the i-th caption near the i-th clip."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(count, _WIDTH, generator=draw)
    video = text + 10 * torch.randn(count, _WIDTH, generator=draw)
    return normalize(text, dim=-1), normalize(video, dim=-1)


def ranked(text: Tensor, video: Tensor) -> dict[str, np.ndarray]:
    """Ranks by the metric that `petl-bench test` computes: all of it, features in, figures out."""
    metric, index = RetrievalMetric(len(video), len(text)), torch.arange(len(text))
    metric.update_videos(video, index, torch.ones(len(video), dtype=torch.bool))
    metric.update_texts(text, index, index)
    return metric.compute().ranks


def ranked_by_sorting(text: Tensor, video: Tensor) -> dict[str, np.ndarray]:
    """The same in CLIP4Clip's way: the whole matrix, made in batches, all rows sorted, the places of the own scores."""
    scores = np.concatenate([_rows_of(some, video) for some in text.split(_BATCH)])
    return {"t2v": _places(scores), "v2t": _places(scores.T)}


def _rows_of(text: Tensor, video: Tensor) -> np.ndarray:
    return np.concatenate([(text @ some.T).numpy() for some in video.split(_BATCH)], axis=1)


def _places(scores: np.ndarray) -> np.ndarray:
    """Negated for the sort and once more for the diagonal, subtracted, and searched for zeros: six passes, no less."""
    descending = np.sort(-scores, axis=1)
    own = np.diag(-scores)[:, None]
    rows, places = np.nonzero(descending - own == 0)
    return places[np.searchsorted(rows, np.arange(len(scores)))] + 1  # of equal scores the first place


def ranks(count: int, goal: float, sizes: Sizes) -> list[Row]:
    """How many times as fast both directions are ranked, the product included."""
    count = 200 if sizes.quick else count
    text, video = features(count)
    require_alike(ranked(text, video), ranked_by_sorting(text, video))
    sides = {"ours": lambda: cpu_seconds(lambda: ranked(text, video))}
    costs = interleave(sides | {"numpy": lambda: cpu_seconds(lambda: ranked_by_sorting(text, video))}, sizes.rounds)
    found = " and ".join(f"{name} {summary(turns).value:.3g} s" for name, turns in costs.items())
    measured = ratio(costs["numpy"], costs["ours"])
    return [Row(f"ranks both ways, numpy / ours, {count:,} x {count:,}", goal, "more", measured, found)]


def require_alike(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    """Refuses to compare evaluations that rank otherwise; both round products, so a query in a hundred may.

    Raises:
        SystemExit: more of them do.
    """
    for way, found in ours.items():
        if (share := np.mean(found != theirs[way])) > 0.01:
            raise SystemExit(f"both evaluations rank differently: {share:.1%} of {way}")


def growth(sizes: Sizes) -> list[Row]:
    """The exponents by which an evaluation's time and its memory beyond the features grow."""
    counts = (100, 200, 400) if sizes.quick else (2500, 5000, 10000)
    of = {str(count): features(count) for count in counts}
    sides = {name: lambda pair=pair: cpu_seconds(lambda: ranked(*pair)) for name, pair in of.items()}
    costs = interleave(sides, sizes.rounds)
    time = exponent(counts, [costs[str(count)] for count in counts])
    how = f"captions and clips {', '.join(map(str, counts))}"
    rows = [Row("exponent of an evaluation's time", 2.05, "less", time, f"{how}; quadratic is 2, 0.05 for noise")]
    goal, what = 1.05, "exponent of an evaluation's memory"
    added = [added_bytes(lambda pair=pair: ranked(*pair)) for pair in of.values()]
    if sizes.quick or not all(added):
        return [*rows, left_out(what, goal, "less", "too little to be told from the noise of the process's memory")]
    told = ", ".join(f"{some / 1e6:.0f}" for some in added)
    memory = exponent(counts, [[some] for some in added])
    return [*rows, Row(what, goal, "less", memory, f"{how}: {told} MB; linear is 1, 0.05 for noise")]


def added_bytes(work: Callable[[], object]) -> int:
    """What a piece of work adds to the memory of a process at most; 0 where the system does not tell."""
    reading, writing = os.pipe()

    def told() -> int:
        memory = AddedMemory()
        work()
        os.write(writing, str(memory.bytes() or 0).encode())
        return 0

    child = os.fork()
    if not child:
        end_with(told)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return int(answer or 0)


def reranking(sizes: Sizes) -> list[Row]:
    """Pairs of the second stage a second and core against 3e531d0: captions as long as those of MSR-VTT."""
    what, goal = "re-ranked pairs a second and core / 3e531d0's, BLIP base, 8 frames", 1.4
    if sizes.before is None:
        return [left_out(what, goal, "more", "needs --before, a checkout of 3e531d0")]
    asked: dict[str, Any] = {"turns": 1 + min(3, sizes.rounds)}
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        asked["vocabulary"] = None if sizes.quick else str(write_vocabulary(Path(name, "vocab.txt")))
        found: dict[str, Checkout] = {}
        try:
            for side, folder in (("now", ROOT), ("3e531d0", sizes.before)):
                found[side] = Checkout(folder, name, Path(name, f"{side}.log"), "perf/asked_pairs.py")
                found[side].tell(asked)
            costs = interleave({side: lambda it=it: _turn(it) for side, it in found.items()}, asked["turns"] - 1)
        finally:
            for checkout in found.values():
                checkout.process.kill()
                checkout.process.communicate()
    told = " and ".join(f"{side} {1 / summary(turns).value:.3g} pairs/s" for side, turns in costs.items())
    measured = ratio(costs["3e531d0"], costs["now"])
    return [Row(what, goal, "more", measured, told)]


def _turn(side: Checkout) -> float:
    side.answer("ready")
    side.tell("go")
    return side.answer("seconds")
