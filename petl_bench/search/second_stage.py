"""The second stage of a search: windows that the cosine brought near are read again, and matched with the query."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from petl_bench.data.datasets import stacked
from petl_bench.data.reader import VideoError
from petl_bench.inputs import WHOLE, Clips, Moment
from petl_bench.search.index import Hit, Place
from petl_bench.search.ranking import best
from petl_bench.tasks.base import present
from petl_bench.video_text_model import VideoTextModel

#: seconds from which it is said how long it takes
_LONG = 2.0


def matched(
    model: VideoTextModel, text: str, hits: Sequence[Hit], options: dict[str, Any], videos: Path, seconds: int | None
) -> list[Hit]:
    """Hits of the first stage, the nearest of them ranked again by `match logit + beta * cosine`.

    What it takes is said after the first window, before the others are read.

    Args:
        model: of the index.
        text: the query.
        hits: of the first stage, best first.
        options: `k`, how many are ranked again, and `beta`; see `petl_bench.tasks.reranking.Reranking`.
        videos: folder of the files.
        seconds: length of a window; None if each file is one.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    again, rest = list(hits[: options["k"]]), list(hits[options["k"] :])
    began, scores, unread = time.monotonic(), dict[Place, float](), []
    for number, hit in enumerate(again):
        try:
            clip = _clip(model, videos, hit.place, seconds)
        except VideoError as error:
            warnings.warn(f"{error}; it comes after those that could be read", stacklevel=2)
            unread.append(hit)
            continue
        scores[hit.place] = _logit(model, text, clip) + options["beta"] * hit.score
        if number == 0:
            _tell(time.monotonic() - began, len(again))
    return best(torch.tensor(list(scores.values())), list(scores), len(again)) + unread + rest


def _clip(model: VideoTextModel, videos: Path, place: Place, seconds: int | None) -> Clips:
    file, (start, end) = place.file, place.span
    # What `windows` read: a short file as a whole, but none that has more that could not be read.
    whole = seconds is None or (len(file.spans) == 1 and not file.reason and start == 0 and end <= seconds)
    moment = WHOLE if seconds is None or whole else Moment(int(start), int(start) + seconds)
    return model.read(place.number, videos / file.path, moment)


def _logit(model: VideoTextModel, text: str, clip: Clips) -> float:
    backbone = model.method.backbone
    with model.exactly():
        clips = model.here(stacked([clip]))
        words = model.here(model.spec.tokenize([text], model.max_words))
        video, memory = backbone.encode_video_tokens(clips)
        pooled = backbone.encode_text(words).pooled
        memory = present(backbone.fusion).weigh_frames(memory, pooled, video.by_frame(), clips.mask)
        return float(present(backbone.matching).match(words, memory)[0, 1])


def _tell(seconds: float, count: int) -> None:
    if (expected := seconds * count) > _LONG:
        told = f"two stages: {count} windows are read and matched with the query, about {expected:.0f} s"
        print(f"{told} (--one-stage ranks by the cosine alone)", file=sys.stderr, flush=True)
