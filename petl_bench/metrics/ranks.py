"""All figures of an evaluation follow from the arrays that `ranks.npz` keeps of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from petl_bench.errors import DataError
from petl_bench.metrics.qa import mean_by_group
from petl_bench.metrics.retrieval import summarise

_DIRECTIONS = ("t2v", "v2t", "v2t_captions")


def figures_of(ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The `eval` block of a run record, but for costs and for the answers that could be given.

    Args:
        ranks: of retrieval: `t2v`, `v2t` and, with several captions per video, `v2t_captions`, 1-based (Q,). Of
            question answering: `correct`, float (M,) from 0 to 1, and `question_type`, text (M,).

    Raises:
        DataError: an array is missing, empty, or holds what is no rank and no score.
    """
    return _accuracy(ranks) if "correct" in ranks else _retrieval(ranks)


def _retrieval(ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = {direction: ranks[direction] for direction in _DIRECTIONS if direction in ranks}
    if not {"t2v", "v2t"} <= found.keys():
        raise DataError(f"neither ranks (t2v, v2t) nor scores of answers (correct), but {sorted(ranks)}")
    for direction, values in found.items():
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values) or values.min() < 1:
            raise DataError(f"{direction} holds no ranks")
    record: dict[str, Any] = {
        direction: {**summarise(torch.from_numpy(values.astype(np.int64))), "n": len(values)}
        for direction, values in found.items()
    }
    return record | {"rsum": sum(record[way][f"R{k}"] for way in ("t2v", "v2t") for k in (1, 5, 10))}


def _accuracy(ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    scores, types = ranks["correct"], ranks.get("question_type", np.array([], dtype=str))
    whole = scores.ndim == 1 and scores.dtype.kind == "f" and types.dtype.kind == "U" and types.shape == scores.shape
    if not whole or not len(scores) or not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("correct and question_type do not hold a score and a type for each question")
    return {
        "accuracy": 100 * float(scores.mean()),
        "per_type": mean_by_group(scores, types),
        "n_per_type": dict(Counter(types.tolist())),
        "n": len(scores),
    }
