"""Your own clips with captions or questions, from CSV or JSON files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from petl_bench.data.annotations import MAX_SECONDS, Record, read_table
from petl_bench.data.answers import read_answers
from petl_bench.data.base import VIDEO_SUFFIXES, VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionAnswerDataModule, question_id, question_type
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError, UsageError
from petl_bench.untrusted import shown, whole_number


class Custom(VideoTextDataModule):
    """Retrieval on your own clips: a table, JSON or jsonl with `video` and `caption`, one caption per row.

    `video` is the name of a file in the folder of clips, with or without suffix and sub-folders; names must differ in
    more than these. `start` and `end`, in whole seconds, restrict all rows of a video to a part of it. Rows of one
    video are its captions.

    Args:
        root: folder with the files and, below it, the clips.
        dataset_name: of the dataset, for folders and tables.
        train_file: file of the training split.
        test_file: file of the test split.
        val_file: file of the validation split; null if there is none.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "custom"

    def __init__(
        self,
        root: Path,
        dataset_name: str = "custom",
        train_file: str = "train.csv",
        test_file: str = "test.csv",
        val_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.name = plain_name(dataset_name)
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        return Protocol(f"{self.name}/own", {}, {})

    def annotation_files(self) -> dict[str, Path]:
        return {split: self.root / name for split, name in self.files.items() if name}

    def annotations(self, split: Split) -> list[Sample]:
        name = self.files[split]
        if not name:
            return []
        clips: dict[str, _Clip] = {}
        captions: dict[str, list[str]] = {}
        for record in read_table(self.root / name, ("video", "caption")):
            video = record.name("video")
            clip = _Clip(video, *_span(record))
            stem = video_id(video, record.where)
            if clips.setdefault(stem, clip) != clip:
                told = f"video {shown(stem)} stands above as {clips[stem]}"
                raise DataError(f"{record.where}: {told}; it must be the same file and part")
            captions.setdefault(stem, []).append(record.text("caption"))
        return [Sample(stem, tuple(captions[stem]), clip.start, clip.end) for stem, clip in clips.items()]


class CustomQA(QuestionAnswerDataModule):
    """Questions about your own clips: a table, JSON or jsonl with `video`, `question` and `answer`.

    `video` is as in `Custom`. `answer` may be a list in JSON, one answer per annotator. `type` is the group a question
    is counted for, else its first word; `id` is a number or text, else the place of the row.

    Args:
        root: folder with the files and, below it, the clips.
        dataset_name: of the dataset, for folders and tables.
        train_file: file of the training split.
        test_file: file of the test split.
        val_file: file of the validation split; null if there is none.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "customqa"

    def __init__(
        self,
        root: Path,
        dataset_name: str = "customqa",
        train_file: str = "train.csv",
        test_file: str = "test.csv",
        val_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.name = plain_name(dataset_name)
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        return Protocol(f"{self.name}/own", {}, {})

    def annotation_files(self) -> dict[str, Path]:
        return {split: self.root / name for split, name in self.files.items() if name}

    def questions(self, split: Split) -> Iterator[Asked]:
        name = self.files[split]
        columns = ("video", "question", "answer")
        for place, record in enumerate(read_table(self.root / name, columns) if name else []):
            video, text = record.name("video"), record.text("question")
            kind = _type(record) or question_type(text)
            question = Question(question_id(record, place), kind, read_answers(record))
            yield Asked(video_id(video, record.where), text, question, record.where)


class _Clip(NamedTuple):
    """Which part of which file a row is about."""

    file: str
    start: int | None
    end: int | None

    def __str__(self) -> str:
        file = shown(self.file)[1:-1]
        return file if self.start is None and self.end is None else f"{file} from {self.start} to {self.end}"


def plain_name(name: str) -> str:
    """A name that can be a folder's.

    Raises:
        UsageError: if it cannot.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"data.dataset_name {name!r}: letters, digits, '.', '_' and '-' only, as it names a folder")
    return name


def video_id(name: str, where: str) -> str:
    """The stem of a file's name, without sub-folders.

    Raises:
        DataError: if the path leads out of the folder of clips.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: video {shown(name)} is not inside the folder of clips")
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


def _span(record: Record) -> tuple[int | None, int | None]:
    start, end = (record.whole(key, 0, MAX_SECONDS) if record.has(key) else None for key in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise DataError(f"{record.where}: a part from second {start or 0} to {end} is empty")
    return start, end


def _type(record: Record) -> str:
    """The group of a question, which may be a number; empty if the file names none."""
    if not record.has("type"):
        return ""
    given = record.values["type"]
    number = None if isinstance(given, str) else whole_number(given)
    return record.name("type") if number is None else str(number)
