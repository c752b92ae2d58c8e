"""NExT-QA, multiple choice, read from the files the field distributes (Xiao et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, read_table
from petl_bench.data.choice import ChoiceDataModule, choice_question, chosen_by_index, chosen_by_text, texts_of
from petl_bench.data.qa import Asked, parts_tested_on
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import shown

_VIDEOS = {"train": 3870, "val": 570, "test": 1000}
#: that of the training split follows from the running ids of another release
_QUESTIONS = {"train": 34_132, "val": 4_996, "test": 8_564}
_OPTIONS = ("a0", "a1", "a2", "a3", "a4")
_GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}
_TYPES = ("CW", "CH", "TN", "TC", "DC", "DL", "DO")


class NExTQA(ChoiceDataModule):
    """NExT-QA: 47,692 questions with five options about 5,440 videos of everyday life, of 44 seconds on average.

    Types and groups are those of the official scorer (`eval_mc.py`): CW and CH are causal, TN (with TP) and TC are
    temporal, DC, DL and DO descriptive, and every figure is the mean over its questions. Two releases circulate: the
    official one calls its first column `video` and gives the answer as an index, that of NExT-GQA and CoVGT calls it
    `video_id` and gives the answer's text. Eleven questions have an option twice: the two tie, so it does not matter
    which is meant.

    Args:
        root: folder with the annotation files and, below it, the videos of VidOR (`NExTVideo`).
        test_on: `test` (CoVGT), or `val` (SeViLA, LLaMA-VQA and most papers on language models), which leaves no
            validation split.
        train_file: CSV of the training split.
        val_file: CSV of the validation split.
        test_file: CSV of the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "nextqa"
    repeats_options = True

    def __init__(
        self,
        root: Path,
        test_on: Literal["test", "val"] = "test",
        train_file: str = "train.csv",
        val_file: str = "val.csv",
        test_file: str = "test.csv",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.test_on = test_on
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        """`nextqa-mc-test/v1` or `nextqa-mc-val/v1`."""
        parts = parts_tested_on(self.test_on)
        return Protocol(
            f"nextqa-mc-{self.test_on}/v1",
            {split: _VIDEOS[part] for split, part in parts.items()},
            {split: _QUESTIONS[part] for split, part in parts.items()},
        )

    def annotation_files(self) -> dict[str, Path]:
        return {part: self.root / self.files[part] for part in parts_tested_on(self.test_on).values()}

    def questions(self, split: Split) -> Iterator[Asked]:
        part = parts_tested_on(self.test_on).get(split)
        if part is None:
            return
        for record in read_table(self.root / self.files[part], ("question", "answer", "qid", "type", *_OPTIONS)):
            yield self._read(record)

    def submission(self, answers: Mapping[int | str, Any]) -> dict[str, dict[str, int | None]]:
        """`{"video_qid": {"prediction": index, "answer": index}}`, which the official scorer (`eval_mc.py`) reads."""
        right = {question.id: question.correct for sample in self.samples("test") for question in sample.questions}
        return {str(id): {"prediction": chosen, "answer": right[id]} for id, chosen in answers.items()}

    def _read(self, record: Record) -> Asked:
        official = record.has("video")
        video = record.name("video" if official else "video_id")
        options = self.options_of(record, texts_of(record, _OPTIONS))
        right = (chosen_by_index if official else chosen_by_text)(record, "answer", options)
        text = record.caption("question")
        kind = record.name("type").replace("TP", "TN")
        if kind not in _TYPES:
            raise DataError(f"{record.where}: type {shown(record.values['type'])} is none of {', '.join(_TYPES)}, TP")
        question = choice_question(
            f"{video}_{record.name('qid')}", kind, options, right, prompt=text, group=_GROUPS[kind[0]]
        )
        return Asked(video, text, question, record.where)
