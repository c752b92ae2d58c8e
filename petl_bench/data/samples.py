"""What the samples of a split are, and the protocol they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from petl_bench.data.batch import Question
from petl_bench.errors import DataError
from petl_bench.inputs import WHOLE, Moment

Split = Literal["train", "val", "test"]
#: what the id of a clip in reverse has behind that of the clip
REVERSED = "_reversed"


@dataclass(frozen=True)
class Sample:
    """One clip of a split and its captions.

    Attributes:
        video: id, unique in its split; mostly the stem of the file name.
        captions: at least one; in question answering, the questions about the clip.
        moment: the part of the file that is the clip.
        questions: what belongs to each caption that is a question; else empty.
        names: what the annotations call its file, with suffix and folders where they do; the first one that a file is
            found by counts. Empty where that is `video`.
        caption_ids: what the annotations call each caption, if they do.
        file: id of the file that the clip is a part of, where several clips are parts of one; mostly the stem of its
            name. Empty where each file is one clip: its id is `video`.
        reverse: whether the clip is shown backwards: the frames that are chosen of it in the opposite order. A clip and
            its reverse are two clips of one `file`.
    """

    video: str
    captions: tuple[str, ...]
    moment: Moment = WHOLE
    questions: tuple[Question, ...] = ()
    names: tuple[str, ...] = ()
    caption_ids: tuple[str, ...] = ()
    file: str = ""
    reverse: bool = False

    @property
    def file_id(self) -> str:
        """What tells its file from others."""
        return self.file or self.video


def require_forward(video: str, where: str) -> None:
    """Refuses the id of a clip in reverse where a file names clips as they are.

    Args:
        video: the id.
        where: the file and the place in it.

    Raises:
        DataError: it ends as those of clips in reverse do.
    """
    if video.endswith(REVERSED):
        raise DataError(f"{where}: an id that ends with {REVERSED} is that of a clip in reverse")


def shown_as_named(sample: Sample) -> Sample:
    """A sample whose id says whether its clip is shown in reverse, and of which file."""
    return replace(sample, file=sample.video.removesuffix(REVERSED), reverse=sample.video.endswith(REVERSED))


def looked_up_by(sample: Sample) -> tuple[str, ...]:
    """What a sample's file is found by."""
    return sample.names or (sample.file_id,)


@dataclass(frozen=True)
class Protocol:
    """What must be equal for two results to be comparable.

    Attributes:
        id: versioned name, e.g. `msrvtt-1kA-9k/v1`.
        videos: the expected number of videos by split.
        captions: the expected number of captions (or questions) by split, where it is known.
        sentences: the expected number of sentences that the captions are joined from, where they are paragraphs.
        files: the expected number of files by split, where clips are parts of them; `videos` then counts clips.
    """

    id: str
    videos: Mapping[str, int]
    captions: Mapping[str, int]
    sentences: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
