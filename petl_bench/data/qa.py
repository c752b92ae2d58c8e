"""The base of question-answering data modules: clips with questions in the place of captions."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from petl_bench.data.annotations import Record
from petl_bench.data.answers import Vocabulary
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.clip_files import VIDEO_SUFFIXES
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError, MissingFileError
from petl_bench.inputs import WHOLE, Moment
from petl_bench.storage.untrusted import is_file, shown, whole_number

#: share of questions below which a list of answers is hardly the right one
_LOW_COVERAGE = 0.5


class Asked(NamedTuple):
    """One question about a clip, as an annotation file lists it.

    Attributes:
        video: id of the clip.
        text: the question.
        question: what belongs to it.
        where: its place in the file, for messages.
        names: as in `Sample`.
        moment: as in `Sample`; the same for all questions about a clip.
        file: as in `Sample`.
    """

    video: str
    text: str
    question: Question
    where: str
    names: tuple[str, ...] = ()
    moment: Moment = WHOLE
    file: str = ""


class QuestionAnswerDataModule(VideoTextDataModule):
    """Clips and questions about them. Subclasses read annotation files.

    A clip is decoded and encoded once per evaluation, with all its questions; in training each question is a row of
    its own (`train_captions: all`). Answers stay text: which of them can be given is up to the task.
    """

    texts = "questions"
    #: whether a question that stands twice in the training split is an error there, too
    unique_in_training: ClassVar[bool] = False

    @abstractmethod
    def questions(self, split: Split) -> Iterable[Asked]:
        """The questions of a split in file order."""

    def submission(self, answers: Mapping[int | str, Any]) -> Any:
        """What the dataset's own evaluation reads, as JSON can hold it; None where it has no form of its own.

        `petl-bench predict` then writes it in the place of the task's general form.

        Args:
            answers: to the questions of the test split by their ids, in its order: a text, of questions with choices
                the index of the one that was chosen. Empty text, or -1, where the clip could not be read.
        """
        return None

    def annotations(self, split: Split) -> list[Sample]:
        by_video: dict[str, list[Asked]] = {}
        for asked in self.questions(split):
            by_video.setdefault(asked.video, []).append(asked)
        twice = _asked_twice(asked for group in by_video.values() for asked in group)
        if twice and (split != "train" or self.unique_in_training):
            raise DataError(f"{twice}; ids must be unique, or the answers of a model could not be told apart")
        if twice:
            rank_zero_warn(f"{twice}; both are trained on")
        return [
            Sample(
                video,
                tuple(a.text for a in group),
                group[0].moment,
                questions=tuple(a.question for a in group),
                names=group[0].names,
                file=group[0].file,
            )
            for video, group in by_video.items()
        ]

    def require_covered(self, vocabulary: Vocabulary, splits: Sequence[Split]) -> None:
        """Says what share of the questions a list of answers can answer at all, before anything costly is begun.

        Raises:
            DataError: it can answer none of the first of the splits.
        """
        for split in splits:
            questions = [q for sample in self.samples(split) for q in sample.questions if q.answers]
            share = vocabulary.coverage(questions)
            told = f"{vocabulary.file} answers {100 * share:.1f} % of the {len(questions)} {split} questions"
            if not share and split == splits[0]:
                raise DataError(
                    f"{told}: they are answered with {shown(questions[0].answers[0])}, for one, and it lists "
                    f"{shown(vocabulary.answers[0])}{_differs_in_case(vocabulary, questions)}; give the list that "
                    "belongs to them as the task's answer_list"
                )
            if share < _LOW_COVERAGE:
                rank_zero_warn(f"{told}: all others count as wrong. Does the list belong to them?")
            elif questions:
                rank_zero_info(told)


def _asked_twice(asked: Iterable[Asked]) -> str:
    """Says where two questions of one id are; empty if there are none."""
    places: dict[int | str, str] = {}
    for one in asked:
        if other := places.get(one.question.id):
            return f"{one.where}: question id {shown(one.question.id)} is given twice (see {Path(other).name})"
        places[one.question.id] = one.where
    return ""


def _differs_in_case(vocabulary: Vocabulary, questions: Sequence[Question]) -> str:
    listed = {answer.casefold() for answer in vocabulary.answers}
    alike = any(answer.casefold() in listed for question in questions for answer in question.answers)
    return " (upper and lower case differ)" if alike else ""


def parts_tested_on(part: str) -> dict[str, str]:
    """The part of a dataset that each split is; who is tested on the part `val` has no validation split.

    Args:
        part: that is the test split, `test` or `val`.
    """
    return {"train": "train", "test": part} | ({"val": "val"} if part == "test" else {})


class QuestionFiles(QuestionAnswerDataModule):
    """A data module that reads one file of questions for each split.

    Args:
        root: folder with the annotation files and, below it, the clips.
        train_file: questions of the training split; null takes the first of the dataset's usual files that is there.
        val_file: the same for validation.
        test_file: the same for the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    #: usual names of the files, the first one preferred; `{}` stands for the split
    usual_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        root: Path,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    def annotation_files(self) -> dict[str, Path]:
        return {split: self.question_file(split) for split in self.files}

    def question_file(self, split: str) -> Path:
        """The file of a split.

        Raises:
            MissingFileError: none was given, and none of the usual ones is there.
        """
        return first_file(self.root, split, self.files[split], self.usual_names)


def first_file(root: Path, split: str, given: str | None, names: Sequence[str]) -> Path:
    """The file of a split: the given one, or the first of the usual names that is there.

    Args:
        root: folder.
        split: for messages, and for the `{}` in a name.
        given: name, or None.
        names: usual names.

    Raises:
        MissingFileError: none of them is there.
    """
    if given:
        return root / given
    usual = [name.format(split) for name in names]
    found = next((root / name for name in usual if is_file(root / name)), None)
    if found is None:
        raise MissingFileError(
            f"no {split} questions in {root}: none of {', '.join(usual)}; set data.root, or data.{split}_file"
        )
    return found


def question_id(record: Record, place: int) -> int | str:
    """A record's `id` or `question_id`, else its place in the file.

    A text that is not a number as numbers are written (`007`, `q7`) stays a text.

    Raises:
        DataError: if it is neither text nor a whole number.
    """
    key = "id" if record.has("id") else "question_id"
    if not record.has(key):
        return place
    value = record.values[key]
    if isinstance(value, str):
        name = record.name(key)
        return int(name) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) else name
    number = whole_number(value)
    if number is None:
        raise record.error(key, "a whole number or text")
    return number


def question_type(question: str) -> str:
    """The group that a question counts for where its file names none: its first word."""
    return question.split(maxsplit=1)[0].lower()


def clip_name(record: Record, prefix: str) -> str:
    """The clip of a question: `video_id` or `video`, a number behind a prefix or the name of a file.

    Raises:
        DataError: if neither names a clip.
    """
    key = "video_id" if record.has("video_id") else "video"
    value = record.values.get(key)
    if not isinstance(value, str):
        number = whole_number(value)
        if number is None:
            raise DataError(f"{record.where}: neither 'video_id' nor 'video' names a clip")
        return f"{prefix}{number}"
    name = record.name(key)
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name
