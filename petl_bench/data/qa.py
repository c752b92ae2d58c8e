"""The base of question-answering data modules: clips with questions in the place of captions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.samples import Sample, Split


class Asked(NamedTuple):
    """One question about a clip, as an annotation file lists it."""

    video: str
    text: str
    question: Question


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
            Sample(video, tuple(a.text for a in group), questions=tuple(a.question for a in group))
            for video, group in by_video.items()
        ]
