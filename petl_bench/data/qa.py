"""The base of question-answering data modules: clips with questions in the place of captions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError


class Asked(NamedTuple):
    """One question about a clip, as an annotation file lists it; `names` as in `Sample`."""

    video: str
    text: str
    question: Question
    names: tuple[str, ...] = ()


class QuestionAnswerDataModule(VideoTextDataModule):
    """Clips and questions about them. Subclasses read annotation files.

    A clip is decoded and encoded once per evaluation, with all its questions; in training each question is a row of
    its own (`train_captions: all`). Answers stay text: which of them can be given is up to the task.
    """

    texts = "questions"

    @abstractmethod
    def questions(self, split: Split) -> Iterable[Asked]:
        """The questions of a split in file order."""

    def annotations(self, split: Split) -> list[Sample]:
        by_video: dict[str, list[Asked]] = {}
        for asked in self.questions(split):
            by_video.setdefault(asked.video, []).append(asked)
        return [
            Sample(
                video,
                tuple(a.text for a in group),
                questions=tuple(a.question for a in group),
                names=group[0].names,
            )
            for video, group in by_video.items()
        ]


def first_file(root: Path, split: str, given: str | None, names: Sequence[str]) -> Path:
    """The file of a split: the given one, or the first of the usual names that is there.

    Args:
        root: folder.
        split: for messages, and for the `{}` in a name.
        given: name, or None.
        names: usual names.

    Raises:
        DataError: none of them is there.
    """
    if given:
        return root / given
    usual = [name.format(split) for name in names]
    found = next((root / name for name in usual if (root / name).is_file()), None)
    if found is None:
        raise DataError(f"no {split} questions in {root}: none of {', '.join(usual)}; set data.{split}_file")
    return found


def question_number(record: dict[str, Any], place: int) -> int:
    """A record's `id` or `question_id` if that is a number, else its place in the file."""
    given = record.get("id", record.get("question_id"))
    return given if isinstance(given, int) and not isinstance(given, bool) else place
