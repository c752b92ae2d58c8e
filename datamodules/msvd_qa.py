"""MSVD-QA, read from the files the field distributes (Xu et al., ACM Multimedia 2017)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import Record, read_numbered, read_records
from petl_bench.data.answers import read_answer
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionFiles, clip_name, question_id, question_type
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import is_file, shown

_PROTOCOL = Protocol(
    "msvd-qa/v1",
    {"train": 1_161, "val": 245, "test": 504},
    {"train": 30_933, "val": 6_415, "test": 13_157},
)


class MSVDQA(QuestionFiles):
    """MSVD-QA: 50,505 questions made from the captions of MSVD's clips, with one-word answers.

    147 of the validation videos are test videos of MSVD retrieval: training on both tasks leaks. The type of a question
    is its first word. Answers seen in training cover 94.08 % of the test questions, which no classifier can exceed.

    Files of questions are JSON lists or jsonl: `train_qa.json` (original), `train.jsonl` (ClipBERT, ALPRO),
    `qa_train.json` (LAVIS), and so for the other splits.

    Args:
        root: folder with the annotation files and, below it, the clips of MSVD.
        mapping_file: lines `<clip id> vid<number>`, for the original files, which name clips by number.
        **kwargs: see `QuestionFiles`.
    """

    name = "msvdqa"
    usual_names = ("{}_qa.json", "{}.jsonl", "qa_{}.json")

    def __init__(self, root: Path, mapping_file: str = "youtube_mapping.txt", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.mapping_file = mapping_file

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        mapping = self.root / self.mapping_file
        return super().annotation_files() | ({"mapping": mapping} if is_file(mapping) else {})

    def questions(self, split: Split) -> Iterator[Asked]:
        for place, record in enumerate(read_records(self.question_file(split))):
            text = record.text("question")
            question = Question(question_id(record, place), question_type(text), (read_answer(record),))
            yield Asked(self._clip(record), text, question, record.where)

    def _clip(self, record: Record) -> str:
        """The clip id of any of the distributed shapes: 7, `vid7`, the id itself, or its file's name."""
        name = clip_name(record, "vid")
        if not re.fullmatch(r"vid[0-9]+", name):
            return name
        if name not in self._mapping:
            raise DataError(f"{record.where}: clip '{name}' is not in {self.root / self.mapping_file}")
        return self._mapping[name]

    @cached_property
    def _mapping(self) -> dict[str, str]:
        path = self.root / self.mapping_file
        if not is_file(path):
            raise DataError(f"no file {path}, which says what numbers stand for clips: set data.mapping_file")
        mapping = {}
        for place, line in read_numbered(path):
            pair = line.split()
            if len(pair) != 2:
                raise DataError(f"{path}, line {place}: expected a clip id and `vid<number>`")
            if pair[1] in mapping:
                raise DataError(f"{path}, line {place}: {shown(pair[1])} occurs above, too")
            mapping[pair[1]] = pair[0]
        return mapping
