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
from petl_bench.metrics.table import FIGURES

_DIRECTIONS = ("t2v", "v2t", "v2t_captions")


def figures_of(ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The `eval` block of a run record, but for costs and for the answers that could be given.

    Args:
        ranks: of retrieval: `t2v`, `v2t` and, with several captions per video, `v2t_captions`, 1-based (Q,). Of
            question answering: `correct`, float (M,) from 0 to 1, and `question_type`, text (M,), with types in groups
            also `question_group`, text (M,). Of questions with choices also `n_choices`, integers (M,). Of counts:
            `squared_error` and `squared_error_raw`, float (M,).

    Raises:
        DataError: an array is missing, empty, or holds what is no rank and no score.
    """
    if "squared_error" in ranks:
        return _errors(ranks)
    return _accuracy(ranks) if "correct" in ranks else _retrieval(ranks)


def _errors(ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = {"mse": ranks["squared_error"], "mse_raw": ranks.get("squared_error_raw", np.array([]))}
    for name, values in found.items():
        most = FIGURES[name].most
        whole = values.ndim == 1 and values.dtype.kind == "f" and len(values) and len(values) == len(found["mse"])
        if not whole or not ((values >= 0) & (values <= most)).all():
            raise DataError(f"squared_error and squared_error_raw do not hold an error up to {most:g} of each count")
    return {name: float(values.mean()) for name, values in found.items()} | {"n": len(found["mse"])}


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
    figures = {
        "accuracy": 100 * float(scores.mean()),
        **_by("type", scores, types),
        "n": len(scores),
    }
    if "n_choices" in ranks:
        figures |= _of_choices(ranks["n_choices"], len(scores), figures["per_type"])
    return figures | _of_groups(ranks, scores)


def _of_choices(choices: np.ndarray, questions: int, per_type: Mapping[str, float]) -> dict[str, Any]:
    if choices.shape != (questions,) or choices.dtype.kind not in "iu" or choices.min() < 1:
        raise DataError("n_choices does not hold the number of choices of each question")
    return {
        "mean_of_types": float(np.mean([*per_type.values()])),
        "chance": 100 * float((1 / choices).mean()),
    }


def _of_groups(ranks: Mapping[str, np.ndarray], scores: np.ndarray) -> dict[str, Any]:
    groups = ranks.get("question_group")
    if groups is None:
        return {}
    if groups.shape != scores.shape or groups.dtype.kind != "U":
        raise DataError("question_group does not hold the group of each question")
    return _by("group", scores, groups)


def _by(level: str, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    return {f"per_{level}": mean_by_group(scores, groups), f"n_per_{level}": dict(Counter(groups.tolist()))}
