"""MSVD-QA, read from the files the field distributes (specs/datasets.md section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import read_lines, read_records, require_keys
from petl_bench.data.base import VIDEO_SUFFIXES
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionAnswerDataModule, first_file, question_number
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError

_PROTOCOL = Protocol(
    "msvd-qa/v1",
    {"train": 1_161, "val": 245, "test": 504},
    {"train": 30_933, "val": 6_415, "test": 13_157},
)
#: original; ClipBERT, ALPRO; LAVIS
_NAMES = ("{}_qa.json", "{}.jsonl", "qa_{}.json")


class MSVDQA(QuestionAnswerDataModule):
    """MSVD-QA: 50,505 questions made from the captions of MSVD's clips, with one-word answers.

    147 of the validation videos are test videos of MSVD retrieval: training on both tasks leaks. The type of a question
    is its first word. Answers seen in training cover 94.08 % of the test questions, which no classifier can exceed.

    Args:
        root: folder with the annotation files and, below it, the clips of MSVD.
        train_file: JSON list or jsonl; null takes the first that is there of `train_qa.json` (original),
            `train.jsonl` (ClipBERT, ALPRO), `qa_train.json` (LAVIS).
        val_file: the same for validation.
        test_file: the same for the test split.
        mapping_file: lines `<clip id> vid<number>`, for the original files, which name clips by number.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "msvdqa"

    def __init__(
        self,
        root: Path,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        mapping_file: str = "youtube_mapping.txt",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": train_file, "val": val_file, "test": test_file}
        self.mapping_file = mapping_file

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        files = {split: self._file(split) for split in self.files}
        mapping = self.root / self.mapping_file
        return files | ({"mapping": mapping} if mapping.is_file() else {})

    def questions(self, split: Split) -> Iterator[Asked]:
        path = self._file(split)
        for place, record in enumerate(read_records(path)):
            where = f"{path}, record {place}"
            text, answer = require_keys(record, ("question", "answer"), where)
            kind = text.split()[0].lower() if text.split() else ""
            yield Asked(self._clip(record, where), text, Question(question_number(record, place), kind, (answer,)))

    def _file(self, split: str) -> Path:
        return first_file(self.root, split, self.files[split], _NAMES)

    def _clip(self, record: dict[str, Any], where: str) -> str:
        """The clip id of any of the distributed shapes: 7, `vid7`, the id itself, or its file's name."""
        value = record.get("video_id", record.get("video"))
        name = f"vid{value}" if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(name, str):
            raise DataError(f"{where}: neither 'video_id' nor 'video' names a clip")
        stem, dot, suffix = name.rpartition(".")
        name = stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name
        if not (name.startswith("vid") and name[3:].isdigit()):
            return name
        if name not in self._mapping:
            raise DataError(f"{where}: clip '{name}' is not in {self.root / self.mapping_file}")
        return self._mapping[name]

    @cached_property
    def _mapping(self) -> dict[str, str]:
        path = self.root / self.mapping_file
        pairs = [line.split() for line in read_lines(path)]
        wrong = next((place for place, pair in enumerate(pairs, 1) if len(pair) != 2), None)
        if wrong:
            raise DataError(f"{path}, line {wrong}: expected a clip id and `vid<number>`")
        return {number: clip for clip, number in pairs}
