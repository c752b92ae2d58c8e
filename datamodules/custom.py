"""Your own clips with captions or questions, from CSV or JSON files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from petl_bench.data.annotations import read_table, require_keys
from petl_bench.data.base import VIDEO_SUFFIXES, VideoTextDataModule
from petl_bench.data.batch import Question
from petl_bench.data.clip_files import ClipFiles, normal, outside
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.qa import Asked, QuestionAnswerDataModule
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError, UsageError

CLIP_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)


class Custom(VideoTextDataModule):
    """Retrieval on your own clips: CSV with a header, JSON or jsonl, with `video` and `caption`, one caption per row.

    `video` is the path of a file below the folder of clips; folders and suffix may be left out where that leaves no
    doubt. A file is a video or a still image, which is a clip of one frame. `start` and `end`, in whole seconds,
    restrict all rows of a video to a part of it. Rows of one video are its captions.

    Args:
        root: folder with the files and, below it, the clips.
        dataset_name: of the dataset, for folders and tables.
        train_file: file of the training split.
        test_file: file of the test split.
        val_file: file of the validation split; null if there is none.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "custom"
    suffixes = CLIP_SUFFIXES

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
        parts: dict[str, _Part] = {}
        forms: dict[str, str] = {}
        captions: dict[str, list[str]] = {}
        for where, record in read_table(self.root / name):
            given, caption = require_keys(record, ("video", "caption"), where)
            video, part = one_spelling(plain_path(given, where), forms, self.clip_files), _span(record, where)
            if parts.setdefault(video, part) != part:
                raise DataError(f"{where}: video '{given}' stands above {parts[video]}, and here {part}")
            captions.setdefault(video, []).append(caption)
        ids = ids_of(captions)
        return [Sample(ids[v], tuple(captions[v]), part.start, part.end, names=(v,)) for v, part in parts.items()]

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        return {sample.video: sample.names for sample in self.annotations(split)}


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
    suffixes = CLIP_SUFFIXES

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
        rows = read_table(self.root / name) if name else []
        given = [plain_path(require_keys(record, ("video",), where)[0], where) for where, record in rows]
        forms: dict[str, str] = {}
        videos = [one_spelling(video, forms, self.clip_files) for video in given]
        ids = ids_of(videos)
        for place, ((where, record), video) in enumerate(zip(rows, videos, strict=True)):
            (text,) = require_keys(record, ("question",), where)
            kind = record.get("type") or text.split()[0].lower()
            question = Question(_number(record.get("id", place), where), str(kind), _answers(record, where))
            yield Asked(ids[video], text, question, (video,))

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        return {sample.video: sample.names for sample in self.annotations(split)}


class _Part(NamedTuple):
    """Which seconds of a file a row is about."""

    start: int | None
    end: int | None

    def __str__(self) -> str:
        return "as a whole" if self.start is None and self.end is None else f"from second {self.start} to {self.end}"


def plain_name(name: str) -> str:
    """A name that can be a folder's.

    Raises:
        UsageError: if it cannot.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"data.dataset_name {name!r}: letters, digits, '.', '_' and '-' only, as it names a folder")
    return name


def plain_path(name: str, where: str) -> str:
    """A file's path below the folder of clips, without what says nothing.

    Raises:
        DataError: if it leads out of the folder.
    """
    if reason := outside(name):
        raise DataError(f"{where}: video {name!r} {reason}")
    return str(PurePosixPath(name))


def one_spelling(name: str, known: dict[str, str], clip_files: Callable[[], ClipFiles | None]) -> str:
    """The form in which a name was given first, if it was; unless its Unicode normal form tells two files apart."""
    first = known.setdefault(normal(name), name)
    if first == name or (files := clip_files()) is None:
        return first
    return first if files.find([first]) == files.find([name]) else name


def ids_of(names: Iterable[str]) -> dict[str, str]:
    """The id of each file: its stem, as long as no other one has the same, else its whole path."""
    stems = {name: _stem(name) for name in names}
    shared = {stem for stem, count in Counter(stems.values()).items() if count > 1}
    return {name: name if stem in shared else stem for name, stem in stems.items()}


def _stem(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in CLIP_SUFFIXES else path.name


def _span(record: dict[str, Any], where: str) -> _Part:
    start, end = (None if record.get(key) is None else _number(record[key], where) for key in ("start", "end"))
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise DataError(f"{where}: a part from second {start} to {end} is empty")
    return _Part(start, end)


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
