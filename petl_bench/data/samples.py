"""What the samples of a split are, and the protocol they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from petl_bench.data.batch import Question

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Sample:
    """One clip of a split and its captions.

    Attributes:
        video: id, unique in its split; mostly the stem of the file name.
        captions: at least one; in question answering, the questions about the clip.
        start: first second of the clip in the file, or None for its beginning.
        end: last second, or None for its end.
        questions: what belongs to each caption that is a question; else empty.
        file: what the annotations call its file, with suffix and folders; None where that is `video`.
    """

    video: str
    captions: tuple[str, ...]
    start: int | None = None
    end: int | None = None
    questions: tuple[Question, ...] = ()
    file: str | None = None


@dataclass(frozen=True)
class Protocol:
    """What must be equal for two results to be comparable.

    Attributes:
        id: versioned name, e.g. `msrvtt-1kA-9k/v1`.
        videos: the expected number of videos by split.
        captions: the expected number of captions (or questions) by split, where it is known.
        sentences: the expected number of sentences that the captions are joined from, where they are paragraphs.
    """

    id: str
    videos: Mapping[str, int]
    captions: Mapping[str, int]
    sentences: Mapping[str, int] = field(default_factory=dict)
