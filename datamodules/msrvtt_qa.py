"""MSRVTT-QA, read from the files the field distributes (Xu et al., ACM Multimedia 2017)."""

from __future__ import annotations

from collections.abc import Iterator

from petl_bench.data.annotations import Record, read_records
from petl_bench.data.answers import read_answer
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionFiles, clip_name, question_id, question_type
from petl_bench.data.samples import Protocol, Split

_PROTOCOL = Protocol("msrvtt-qa/v1", {"val": 497}, {"train": 158_581, "val": 12_278, "test": 72_821})


class MSRVTTQA(QuestionFiles):
    """MSRVTT-QA: 243,680 questions made from the captions of MSR-VTT's 10,000 clips, with one-word answers.

    The splits are those of MSR-VTT's `full` protocol. The type of a question is its first word.

    Files of questions are JSON lists or jsonl: `train_qa.json` (original), `train.jsonl` (ClipBERT, ALPRO, HBI),
    `qa_train.json` (LAVIS), `msrvtt_qa_train.json` (VindLU, Singularity), and so for the other splits.
    """

    name = "msrvttqa"
    usual_names = ("{}_qa.json", "{}.jsonl", "qa_{}.json", "msrvtt_qa_{}.json")

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def questions(self, split: Split) -> Iterator[Asked]:
        for place, record in enumerate(read_records(self.question_file(split))):
            yield _read_question(record, place)


def _read_question(record: Record, place: int) -> Asked:
    """A question in any of the distributed shapes: `video_id` is 7 or `video7`, or `video` is `video7.mp4`."""
    text = record.text("question")
    question = Question(question_id(record, place), question_type(text), (read_answer(record),))
    return Asked(clip_name(record, "video"), text, question, record.where)
