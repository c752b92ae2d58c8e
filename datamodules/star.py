"""STAR, read from the files the field distributes (Wu et al., NeurIPS 2021 Datasets and Benchmarks)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, read_records
from petl_bench.data.choice import ChoiceDataModule, choice_question, chosen_by_text
from petl_bench.data.qa import Asked, parts_tested_on
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.inputs import Moment
from petl_bench.storage.untrusted import shown

_QUESTIONS = {"train": 45_731, "val": 7_098, "test": 7_377}
#: what ids of questions begin with
_TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")


class STAR(ChoiceDataModule):
    """STAR: 60,206 questions with four options about windows of Charades videos, generated from what happens in them.

    A clip is the window that a question names, in decimal seconds, so a video has several clips, and a question about
    what comes next sees nothing of that. The type of a question is the first word of its id; the official figure is the
    mean of the four types' accuracies (`mean of types`, printed first, and tables are in its order), while the mean
    over all questions (`accuracy`, as SeViLA and LLaMA-VQA code has it) is mostly that of `sequence`. Options are in
    the order of their `choice_id`. The files also hold the truth in other forms (`situations`, `question_program`,
    `choice_program`), which is never read.

    Args:
        root: folder with the annotation files and, below it, the videos (`Charades_v1_480`).
        test_on: `val`, as papers report, which leaves no validation split (`val_videos` holds out training videos); or
            `test`, whose answers are not public: `petl-bench predict` writes what is chosen.
        train_file: JSON list of the training split.
        val_file: JSON list of the validation split.
        test_file: JSON list of the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "star"
    headline = "mean_of_types"
    most_overrun = 1.0
    options_each = 4

    def __init__(
        self,
        root: Path,
        test_on: Literal["val", "test"] = "val",
        train_file: str = "STAR_train.json",
        val_file: str = "STAR_val.json",
        test_file: str = "STAR_test.json",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.test_on = test_on
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        """`star-val/v1` or `star-test/v1`; how many windows there are is not established."""
        questions = {split: _QUESTIONS[part] for split, part in parts_tested_on(self.test_on).items()}
        return Protocol(f"star-{self.test_on}/v1", {}, questions)

    def annotation_files(self) -> dict[str, Path]:
        return {part: self.root / self.files[part] for part in parts_tested_on(self.test_on).values()}

    def questions(self, split: Split) -> Iterator[Asked]:
        part = parts_tested_on(self.test_on).get(split)
        if part is None:
            return
        for record in read_records(self.root / self.files[part]):
            yield self._read(record, answered=part != "test")

    def _read(self, record: Record, answered: bool) -> Asked:
        id, video, text = record.name("question_id"), record.name("video_id"), record.caption("question")
        kind = id.split("_")[0]
        if kind not in _TYPES:
            raise record.error("question_id", f"one that begins with {', '.join(_TYPES)}")
        options = self.options_of(record, _in_order(record))
        right = chosen_by_text(record, "answer", options) if answered or record.has("answer") else None
        moment = _window(record)
        question = choice_question(id, kind.lower(), options, right, prompt=text)
        return Asked(f"{video}_{moment.start}_{moment.end}", text, question, record.where, moment=moment, file=video)


def _window(record: Record) -> Moment:
    start, end = record.seconds("start"), record.seconds("end")
    if start >= end:
        raise DataError(f"{record.where}: its window begins at second {start:g} and ends at {end:g}")
    return Moment(start, end)


def _in_order(record: Record) -> list[str]:
    """The options by their `choice_id`, which counts them from 0, wherever they stand in the list.

    Raises:
        DataError: an option has no text, or the ids are others.
    """
    choices = [
        Record(choice if isinstance(choice, dict) else {}, f"{record.where}, choice {place}")
        for place, choice in enumerate(record.items("choices"))
    ]
    by_id = {choice.whole("choice_id"): choice.text("choice") for choice in choices}
    if sorted(by_id) != list(range(len(choices))):
        given = shown([choice.values["choice_id"] for choice in choices])
        raise DataError(f"{record.where}: choices have the choice_id {given}, not each of 0 to {len(choices) - 1}")
    return [by_id[id] for id in range(len(choices))]
