"""MSRVTT-QA, read from the files the field distributes (Xu et al., ACM Multimedia 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import Record, read_records
from petl_bench.data.answers import read_answer
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionAnswerDataModule, clip_name, first_file, question_id, question_type
from petl_bench.data.samples import Protocol, Split

_PROTOCOL = Protocol("msrvtt-qa/v1", {"val": 497}, {"train": 158_581, "val": 12_278, "test": 72_821})
#: original; ClipBERT, ALPRO, HBI; LAVIS; VindLU, Singularity
_NAMES = ("{}_qa.json", "{}.jsonl", "qa_{}.json", "msrvtt_qa_{}.json")


class MSRVTTQA(QuestionAnswerDataModule):
    """MSRVTT-QA: 243,680 questions made from the captions of MSR-VTT's 10,000 clips, with one-word answers.

    The splits are those of MSR-VTT's `full` protocol. The type of a question is its first word.

    Args:
        root: folder with the annotation files and, below it, the clips of MSR-VTT.
        train_file: JSON list or jsonl; null takes the first that is there of `train_qa.json` (original),
            `train.jsonl` (ClipBERT, ALPRO, HBI), `qa_train.json` (LAVIS), `msrvtt_qa_train.json` (VindLU).
        val_file: the same for validation.
        test_file: the same for the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "msrvttqa"

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

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        return {split: self._file(split) for split in self.files}

    def questions(self, split: Split) -> Iterator[Asked]:
        for place, record in enumerate(read_records(self._file(split))):
            yield _read_question(record, place)

    def _file(self, split: str) -> Path:
        return first_file(self.root, split, self.files[split], _NAMES)


def _read_question(record: Record, place: int) -> Asked:
    """A question in any of the distributed shapes: `video_id` is 7 or `video7`, or `video` is `video7.mp4`."""
    text = record.text("question")
    question = Question(question_id(record, place), question_type(text), (read_answer(record),))
    return Asked(clip_name(record, "video"), text, question, record.where)
