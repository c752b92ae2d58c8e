"""What a query finds: windows by their likeness, with ranks by the rule of the evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from petl_bench.errors import CheckpointError, NonFiniteError
from petl_bench.metrics.scores import in_one_order
from petl_bench.metrics.similarity import text_conditioned_cosine
from petl_bench.search.index import Hit, Place, Rows

#: windows that are compared at once where each has features of its frames
_CHUNK = 4096
#: and where each has one vector
_WIDE_CHUNK = 65_536


def likeness(query: Tensor, rows: Rows, pooling: dict[str, Any]) -> Tensor:
    """Likeness of a query and windows, (n,) fp32; of equal features equal to the bit, wherever they stand.

    Products are summed in fp64: in fp32 the place in a matrix decides how a sum is rounded.

    Args:
        query: features (E,), before normalisation where captions weigh frames.
        rows: of the windows.
        pooling: as the record of a run says it.
    """
    if rows.mask is None:
        wide = query.double()
        return torch.cat([(part.double() @ wide).float() for part in rows.features.split(_WIDE_CHUNK)])
    found = []
    for features, mask in zip(rows.features.split(_CHUNK), rows.mask.split(_CHUNK), strict=True):
        frames, kept = in_one_order(features.double().masked_fill(~mask[..., None], 0), mask)
        found.append(text_conditioned_cosine(query.double()[None], frames, kept, pooling["temperature"])[0].float())
    return torch.cat(found)


def ranked(query: Tensor, parts: Iterable[tuple[list[Place], Rows]], pooling: dict[str, Any], top_k: int) -> list[Hit]:
    """The windows that are most like a query, best first; of equal ones the first by file and time.

    Args:
        query: see `likeness`.
        parts: windows and their features, as `Shards.live` gives them.
        pooling: see `likeness`.
        top_k: the most windows.

    Raises:
        CheckpointError: query and windows have features of different widths.
        NonFiniteError: a likeness is NaN or infinite.
    """
    places: list[Place] = []
    found = []
    for windows, rows in parts:
        if rows.features.shape[-1] != len(query):
            width = rows.features.shape[-1]
            raise CheckpointError(
                f"windows have features of {width} numbers, the query of {len(query)}: delete the index"
            )
        places += windows
        found.append(likeness(query, rows, pooling))
    return best(torch.cat(found) if found else torch.empty(0), places, top_k)


def best(scores: Tensor, places: Sequence[Place], top_k: int) -> list[Hit]:
    """The first windows by score (n,), with their ranks.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    if not scores.isfinite().all():
        wrong = places[int((~scores.isfinite()).nonzero()[0])]
        raise NonFiniteError(f"{wrong.file.path}: its likeness to the query is not finite; check the model")
    if not len(scores):
        return []
    threshold = scores.topk(min(top_k, len(scores))).values[-1]
    candidates = (scores >= threshold).nonzero().flatten().tolist()
    candidates.sort(key=lambda row: (-float(scores[row]), places[row].file.path, places[row].number))
    return _hits(scores, candidates[:top_k], places)


def _hits(scores: Tensor, rows: Sequence[int], places: Sequence[Place]) -> list[Hit]:
    """Windows with their ranks among all."""
    ascending, own = scores.sort().values, scores[list(rows)]
    more = len(scores) - torch.searchsorted(ascending, own, right=True)
    equal = len(scores) - torch.searchsorted(ascending, own) - more - 1
    ranks = (1 + more + (equal + 1) // 2).tolist()
    return [Hit(rank, score, places[row]) for rank, score, row in zip(ranks, own.tolist(), rows, strict=True)]
