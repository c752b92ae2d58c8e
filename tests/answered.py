"""Builds runs with the ranks that their figures follow from, for tests of a report's statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petl_bench.report.collect import Run
from petl_bench.report.queries import Queries
from petl_bench.report.verification import figures_of
from tests.records import make_record, write_record


def retrieval(
    folder: Path,
    t2v: Sequence[int],
    v2t: Sequence[int],
    text_video: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    files: Sequence[int] | None = None,
    **overrides: Any,
) -> Run:
    """A run of retrieval.

    Args:
        folder: of the run.
        t2v: rank of each caption's video.
        v2t: rank of each video's captions.
        text_video: row of each caption's video; None: one caption a video.
        names: ids of videos, after which captions are called; None: the run says neither.
        files: row of the first clip of each clip's file; None: each is a file.
        overrides: of `make_record`.
    """
    rows = range(len(v2t)) if text_video is None else text_video
    arrays = {"t2v": np.array(t2v, np.int32), "v2t": np.array(v2t, np.int32), "text_video": np.array(rows)}
    if files is not None:
        arrays["video_file"] = np.array(files)
    if names is not None:
        texts = [f"{names[row]}#{place if text_video else 0}" for place, row in enumerate(rows)]
        arrays |= {"video_id": np.array(names), "text_id": np.array(texts)}
    queries = {way: Queries(np.arange(len(arrays[way])), ranks=arrays[way]) for way in ("t2v", "v2t")}
    return _saved(folder, arrays, queries, overrides)


def answers(
    folder: Path, scores: Sequence[float], types: Sequence[str], video: Sequence[int] | None, **overrides: Any
) -> Run:
    """A run of question answering; `video` is the row of each question's video, None: it is not said."""
    arrays = {"correct": np.array(scores, float), "question_type": np.array(types)}
    if video is not None:
        arrays |= {
            "text_video": np.array(video),
            "video_id": np.array([f"v{row}" for row in range(max(video) + 1)]),
            "text_id": np.array([f"q{place}" for place in range(len(video))]),
        }
    found = Queries(np.arange(len(scores)), scores=arrays["correct"], types=list(types))
    return _saved(folder, arrays, {"answers": found}, overrides)


def _saved(folder: Path, arrays: Mapping[str, np.ndarray], queries: dict[str, Queries], overrides: Any) -> Run:
    return write_record(folder, arrays, make_record(eval=_figures(queries), **overrides))


def _figures(queries: dict[str, Queries]) -> dict[str, Any]:
    block: dict[str, Any] = {"cost": {"clips_per_s": 300.0}}
    for way, answered in queries.items():
        if way == "answers":
            types = answered.types or []
            block |= {
                "n": len(answered),
                "per_type": {},
                "n_per_type": {name: types.count(name) for name in set(types)},
            }
        else:
            block[way] = {"n": len(answered)}
    for name, value in figures_of(queries).items():
        way, _, figure = name.rpartition(".")
        (block[way] if way else block)[figure] = value
    return block
