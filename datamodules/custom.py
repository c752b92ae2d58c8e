"""Your own clips with captions or questions, from CSV or JSON files."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from petl_bench.data.annotations import Record, read_table
from petl_bench.data.answers import read_answers
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.clip_files import VIDEO_SUFFIXES, ClipFiles, normal, outside
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.qa import Asked, QuestionAnswerDataModule, question_id, question_type
from petl_bench.data.samples import REVERSED, Protocol, Sample, Split
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import Moment
from petl_bench.storage.untrusted import shown, whole_number

#: of what a row may name: a video, or a still, which is a clip of one frame
SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
_YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class Custom(VideoTextDataModule):
    """Retrieval on your own clips: a table, JSON or jsonl with `video` and `caption`, one caption per row.

    `video` is the path of a video or a still image, which is a clip of one frame, below the folder of clips; folders
    and suffix may be left out where that leaves no doubt. `start` and `end`, in seconds (`7.7`), restrict all rows of a
    video to a part of it. Rows of one video are its captions; those with `reverse` (yes, true or 1) are captions of the
    clip shown backwards, which is a clip of its own.

    Args:
        root: folder with the files and, below it, the clips.
        dataset_name: of the dataset, for folders and tables.
        train_file: file of the training split.
        test_file: file of the test split.
        val_file: file of the validation split; null if there is none.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "custom"
    suffixes = SUFFIXES

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
        parts: dict[str, Moment] = {}
        captions: dict[tuple[str, bool], list[str]] = {}
        spelled = Spelling(self.clip_files)
        for record in read_table(self.root / name, ("video", "caption")):
            file, part = spelled.first(file_name(record)), _part(record)
            if parts.setdefault(file, part) != part:
                told = f"video {shown(file)} stands above {parts[file]}, and here {part}"
                raise DataError(f"{record.where}: {told}; it must be the same part")
            captions.setdefault((file, _reverse(record)), []).append(record.text("caption"))
        turned = {file for file, reverse in captions if reverse}
        return [
            Sample(
                self._ids[file] + (REVERSED if reverse else ""),
                tuple(texts),
                parts[file],
                names=(file,),
                file=self._ids[file] if file in turned else "",
                reverse=reverse,
            )
            for (file, reverse), texts in captions.items()
        ]

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        return {sample.file_id: sample.names for sample in self.annotations(split)}

    @functools.cached_property
    def _ids(self) -> dict[str, str]:
        return ids_by_name(self.annotation_files().values(), ("video", "caption"))


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
    suffixes = SUFFIXES

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
        spelled = Spelling(self.clip_files)
        for place, record in enumerate(read_table(self.root / name, columns) if name else []):
            file, text = spelled.first(file_name(record)), record.text("question")
            kind = _type(record) or question_type(text)
            question = Question(question_id(record, place), kind, read_answers(record))
            yield Asked(self._ids[file], text, question, record.where, (file,))

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        return {sample.video: sample.names for sample in self.annotations(split)}

    @functools.cached_property
    def _ids(self) -> dict[str, str]:
        return ids_by_name(self.annotation_files().values(), ("video", "question", "answer"))


class Spelling:
    """One spelling for each file of a split.

    Names that differ in their separators or their Unicode normal form alone are one name, unless both are files.
    """

    def __init__(self, clip_files: Callable[[], ClipFiles | None]) -> None:
        self._clip_files = clip_files
        self._first: dict[str, str] = {}

    def first(self, name: str) -> str:
        """The spelling in which a file was named first."""
        first = self._first.setdefault(normal(name.replace("\\", "/")), name)
        if first == name or (clips := self._clip_files()) is None:
            return first
        return first if clips.find([first]) == clips.find([name]) else name


def plain_name(name: str) -> str:
    """A name that can be a folder's.

    Raises:
        UsageError: if it cannot.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"data.dataset_name {name!r}: letters, digits, '.', '_' and '-' only, as it names a folder")
    return name


def file_name(record: Record) -> str:
    """What a row calls its clip, as a path below the folder of clips.

    Raises:
        DataError: if the path leads out of that folder.
    """
    name = record.name("video")
    if reason := outside(name):
        raise DataError(f"{record.where}: video {shown(name)} {reason}")
    return str(PurePosixPath(name))


def ids_by_name(files: Iterable[Path], columns: Sequence[str]) -> dict[str, str]:
    """An id for every clip that some files name: its stem, or the whole name where several have one stem.

    Ids are names of files, so folders are told in another way: `cats/first.mp4` may become `cats__first.mp4`.
    """
    names: dict[str, None] = {}
    for file in files:
        with suppress(DataError):  # told when that split is read
            for record in read_table(file, columns):
                names[file_name(record)] = None
    alike = Counter(map(_stem, names))
    return {name: _stem(name) if alike[_stem(name)] == 1 else re.sub(r"[/\\]", "__", name) for name in names}


def _stem(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _part(record: Record) -> Moment:
    start, end = (record.seconds(key) if record.has(key) else None for key in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise DataError(f"{record.where}: a part from second {start or 0} to {end} is empty")
    return Moment(start, end)


def _reverse(record: Record) -> bool:
    """Whether a row is about the clip shown backwards.

    Raises:
        DataError: that is neither yes nor no.
    """
    if not record.has("reverse"):
        return False
    value = record.values["reverse"]
    found = _YES_OR_NO.get(str(value).strip().lower())
    if found is None:
        raise record.error("reverse", "yes or no, true or false, 1 or 0")
    return found


def _type(record: Record) -> str:
    """The group of a question, which may be a number; empty if the file names none."""
    if not record.has("type"):
        return ""
    given = record.values["type"]
    number = None if isinstance(given, str) else whole_number(given)
    return record.name("type") if number is None else str(number)
