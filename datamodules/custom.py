"""Your own clips with captions or questions, from CSV or JSON files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from petl_bench.data.annotations import read_table, require_keys
from petl_bench.data.base import VIDEO_SUFFIXES, VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionAnswerDataModule
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError, UsageError


class Custom(VideoTextDataModule):
    """Retrieval on your own clips: CSV with a header, JSON or jsonl, with `video` and `caption`, one caption per row.

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
        for where, record in read_table(self.root / name):
            video, caption = require_keys(record, ("video", "caption"), where)
            clip = _Clip(video, *_span(record, where))
            stem = video_id(video, where)
            if clips.setdefault(stem, clip) != clip:
                raise DataError(
                    f"{where}: video '{stem}' stands above as {clips[stem]}; it must be the same file and part"
                )
            captions.setdefault(stem, []).append(caption)
        return [Sample(stem, tuple(captions[stem]), clip.start, clip.end) for stem, clip in clips.items()]


class CustomQA(QuestionAnswerDataModule):
    """Questions about your own clips: CSV with a header, JSON or jsonl, with `video`, `question` and `answer`.

    `video` is as in `Custom`. `answer` may be a list in JSON, one answer per annotator. `type` is the group a question
    is counted for, else its first word; `id` is a number, else the place of the row.

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
        for place, (where, record) in enumerate(read_table(self.root / name) if name else []):
            video, text = require_keys(record, ("video", "question"), where)
            kind = record.get("type") or text.split()[0].lower()
            question = Question(_number(record.get("id", place), where), str(kind), _answers(record, where))
            yield Asked(video_id(video, where), text, question)


class _Clip(NamedTuple):
    """Which part of which file a row is about."""

    file: str
    start: int | None
    end: int | None

    def __str__(self) -> str:
        return self.file if self.start is None and self.end is None else f"{self.file} from {self.start} to {self.end}"


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
        raise DataError(f"{where}: video {name!r} is not inside the folder of clips")
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


def _span(record: dict[str, Any], where: str) -> tuple[int | None, int | None]:
    start, end = (None if record.get(key) is None else _number(record[key], where) for key in ("start", "end"))
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise DataError(f"{where}: a part from second {start} to {end} is empty")
    return start, end


def _number(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {value!r} is no whole number") from error


def _answers(record: dict[str, Any], where: str) -> tuple[str, ...]:
    given = record.get("answer")
    listed = given if isinstance(given, list) else [given]
    answers = tuple(answer for answer in listed if isinstance(answer, str) and answer.strip())
    if not answers or len(answers) < len(listed):
        raise DataError(f"{where}: 'answer' is missing or not text")
    return answers
