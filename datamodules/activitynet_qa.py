"""ActivityNet-QA, read from the files the field distributes (Yu et al., arXiv 1906.02467)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import Record, read_records
from petl_bench.data.answers import read_answer
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionFiles, clip_name, question_type
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import shown

_PROTOCOL = Protocol(
    "activitynet-qa/v1",
    {"train": 3_200, "val": 1_800, "test": 800},
    {"train": 32_000, "val": 18_000, "test": 8_000},
)
#: by the number that stands for each
_TYPES = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
#: types from this one on are pooled
_FREE = 3
#: `v_` and a YouTube id of 11 characters, which may itself begin with `v_`
_PREFIXED = 13


class ActivityNetQA(QuestionFiles):
    """ActivityNet-QA: ten questions about each of 5,800 videos, written and answered by people.

    Types and the group `free` are the paper's: all questions but those on motion, space and time. The official script
    divides the last six of its types by those that it meets last in the file, which gives other figures for `free`
    (75.83 instead of 50.55 for its own example); here it is 12,600 questions of validation, 5,600 of test. Validation
    videos are test videos of ActivityNet Captions: training on both leaks. Answers seen in training cover 84.8 % of the
    test questions, which no classifier can exceed.

    Files of questions are JSON lists: `train_q.json` (original) or `anet_qa_train.json` (LAVIS, VindLU, Singularity),
    whose records have the answers and no type: the first word of the question is it, and there are no groups.

    Args:
        root: folder with the annotation files and, below it, the videos, `v_<YouTube id>` or without `v_`.
        train_answers: JSON list of answers; null takes the name of the questions with `_a` for `_q`, if it has that.
        val_answers: the same for validation.
        test_answers: the same for the test split.
        **kwargs: see `QuestionFiles`.
    """

    name = "activitynetqa"
    usual_names = ("{}_q.json", "anet_qa_{}.json")

    def __init__(
        self,
        root: Path,
        train_answers: str | None = None,
        val_answers: str | None = None,
        test_answers: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.answers = {"train": train_answers, "val": val_answers, "test": test_answers}

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        answers = {f"{split}_answers": self._answers_file(split) for split in self.files}
        return super().annotation_files() | {role: path for role, path in answers.items() if path}

    def file_id(self, path: Path) -> str:
        return video_id(path.stem)

    def questions(self, split: Split) -> Iterator[Asked]:
        asked_in, path = self.question_file(split), self._answers_file(split)
        answers = None if path is None else read_answers_by_id(path)
        for record in read_records(asked_in):
            answered = record if answers is None else _answer_to(record, answers, path)
            yield _asked(record, answered, typed=answers is not None)
        if answers:
            left = next(iter(answers.values()))
            raise DataError(
                f"{left.where}: an answer to {shown(left.values['question_id'])}, which {asked_in} does not "
                "ask; the two files do not belong together"
            )

    def _answers_file(self, split: str) -> Path | None:
        """The answers to the questions of a split; None where those have them."""
        if name := self.answers[split]:
            return self.root / name
        questions = self.question_file(split)
        stem, found, rest = questions.name.rpartition("_q.")
        return questions.with_name(f"{stem}_a.{rest}") if found else None


def video_id(name: str) -> str:
    """`v_` and the YouTube id of a name with or without `v_`."""
    return name if name.startswith("v_") and len(name) == _PREFIXED else f"v_{name}"


def read_answers_by_id(path: Path) -> dict[str, Record]:
    """The records of the answers by the id of their question.

    Raises:
        DataError: an id is missing, or has two answers; it names the record.
    """
    found: dict[str, Record] = {}
    for record in read_records(path):
        id = record.name("question_id")
        if id in found:
            raise DataError(f"{record.where}: question {shown(id)} is answered above, too")
        found[id] = record
    return found


def _answer_to(record: Record, answers: dict[str, Record], path: Path | None) -> Record:
    id = record.name("question_id")
    if id not in answers:
        told = "the two files do not belong together, or a question stands twice"
        raise DataError(f"{record.where}: question {shown(id)} has no answer in {path}; {told}")
    return answers.pop(id)


def _asked(record: Record, answered: Record, typed: bool) -> Asked:
    """A question in either shape: original, `typed`, or with `video` (a file's name) and the answer beside it."""
    video = record.name("video_name") if record.has("video_name") else clip_name(record, "")
    text, kind, group = record.caption("question"), "", ""
    if typed or answered.has("type"):
        number = answered.whole("type", 0, len(_TYPES) - 1)
        kind = _TYPES[number]
        group = "free" if number >= _FREE else kind
    question = Question(record.name("question_id"), kind or question_type(text), (read_answer(answered),), group=group)
    return Asked(video_id(video), text, question, record.where)
