"""NExT-QA, open-ended, read from the files the field distributes (Xiao et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, read_json, read_table
from petl_bench.data.answers import plain_answer, read_answer
from petl_bench.data.batch import Question
from petl_bench.data.qa import Asked, QuestionAnswerDataModule, parts_tested_on
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import described, plain_text, shown

_VIDEOS = {"train": 3_870, "val": 570, "test": 1_000}
_QUESTIONS = {"train": 37_523, "val": 5_343, "test": 9_178}
#: second answers to test questions, of 500 of the 1,000 videos
_SECOND = 4_632
_GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}
_TYPES = ("CW", "CH", "TN", "TC", "DB", "DC", "DL", "DO")


class NExTQAOE(QuestionAnswerDataModule):
    """NExT-QA, open-ended (NExT-OE): 52,044 questions about the videos of NExT-QA, answered in a few words.

    Answers are to be generated: all those of the training split together have only 50.5 % of the test answers, which no
    classifier exceeds. Types and groups are those of NExT-QA, TP counted as TN, with DB for questions of yes or no. The
    official score is WUPS (`score: wups` of the task). About half of the test questions have a second reference answer;
    the better of the two counts, which is worth 2.8 points, and nothing like it exists for validation. Three questions
    stand twice in the training split; both are trained on.

    Args:
        root: folder with the annotation files and, below it, the videos of VidOR (`NExTVideo`).
        test_on: `test`, or `val`, which leaves no validation split.
        train_file: CSV of the training split.
        val_file: CSV of the validation split.
        test_file: CSV of the test split.
        references_file: JSON of second answers to test questions; null leaves them out, which is another protocol.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "nextqa_oe"

    def __init__(
        self,
        root: Path,
        test_on: Literal["test", "val"] = "test",
        train_file: str = "train.csv",
        val_file: str = "val.csv",
        test_file: str = "test.csv",
        references_file: str | None = "add_reference_answer_test.json",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.test_on = test_on
        self.files = {"train": train_file, "val": val_file, "test": test_file}
        self.references_file = references_file

    @property
    def protocol(self) -> Protocol:
        """`nextqa-oe-test/v1` or `nextqa-oe-val/v1`; without second answers `nextqa-oe-test-one-answer/v1`."""
        parts = parts_tested_on(self.test_on)
        one = "-one-answer" if self.test_on == "test" and self.references_file is None else ""
        return Protocol(
            f"nextqa-oe-{self.test_on}{one}/v1",
            {split: _VIDEOS[part] for split, part in parts.items()},
            {split: _QUESTIONS[part] for split, part in parts.items()},
        )

    def annotation_files(self) -> dict[str, Path]:
        files = {part: self.root / self.files[part] for part in parts_tested_on(self.test_on).values()}
        return files | ({"test_references": path} if (path := self._references()) else {})

    def file_option(self, role: str) -> str | None:
        return "references_file" if role == "test_references" else super().file_option(role)

    def _references(self) -> Path | None:
        """The file of second answers, where they count."""
        named = self.references_file if self.test_on == "test" else None
        return self.root / named if named else None

    def questions(self, split: Split) -> Iterator[Asked]:
        part = parts_tested_on(self.test_on).get(split)
        if part is None:
            return
        path = self._references() if part == "test" else None
        second = read_second_answers(path) if path else {}
        for record in read_table(self.root / self.files[part], ("video", "question", "answer", "qid", "type")):
            yield _read(record, second)
        if second and not self.partial:
            video, number = next(iter(second))
            told = f"{path}: {len(second)} answers are to no question of {self.root / self.files[part]}"
            raise DataError(
                f"{told}, such as that to {shown(number)} of video {shown(video)}; do the files belong together?"
            )

    def checked(self, split: Split) -> list[Sample]:
        samples, path = super().checked(split), self._references()
        found = sum(len(question.answers) > 1 for sample in samples for question in sample.questions)
        if split == "test" and path and found != _SECOND and not self.partial:
            raise DataError(
                f"{path}: second answers to {found} test questions, expected {_SECOND}: it is cut or another file; for "
                "a subset on purpose set data.partial true, which marks the run"
            )
        return samples

    def submission(self, answers: Mapping[int | str, Any]) -> dict[str, dict[str, str]]:
        """`{video: {qid: answer}}`, which the official scorer (`eval_oe.py`) reads."""
        found: dict[str, dict[str, str]] = {}
        for id, answer in answers.items():
            video, _, number = str(id).rpartition("_")
            found.setdefault(video, {})[number] = answer
        return found


def read_second_answers(path: Path) -> dict[tuple[str, str], str]:
    """Second answers by video and number of the question.

    Raises:
        DataError: the file is of another shape, or an answer is no text or blank; it names the question.
    """
    videos = read_json(path)
    if not isinstance(videos, dict) or not videos:
        raise DataError(f"{path}: expected answers by video and question, found {described(videos)}; wrong file?")
    found = {}
    for video, answers in videos.items():
        where = f"{path}: video {shown(video)}"
        if not isinstance(answers, dict):
            raise DataError(f"{where}: expected answers by question, found {described(answers)}")
        record = Record(answers, where)
        found |= {(plain_text(video), plain_text(number)): plain_answer(record.text(number)) for number in answers}
    return found


def _read(record: Record, second: dict[tuple[str, str], str]) -> Asked:
    """A question; takes its second answer, if there is one, from those that are left."""
    video, number = record.name("video"), record.name("qid")
    kind = record.name("type").replace("TP", "TN")
    if kind not in _TYPES:
        raise DataError(f"{record.where}: type {shown(record.values['type'])} is none of {', '.join(_TYPES)}, TP")
    other = second.pop((video, number), None)
    answers = (read_answer(record), *(() if other is None else (other,)))
    question = Question(f"{video}_{number}", kind, answers, group=_GROUPS[kind[0]])
    return Asked(video, record.caption("question"), question, record.where)
