"""EgoSchema, read from the files the field distributes (Mangalam et al., NeurIPS 2023 Datasets and Benchmarks)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, read_json, read_records
from petl_bench.data.choice import ChoiceDataModule, choice_question, chosen_by_index, texts_of
from petl_bench.data.qa import Asked
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import described, is_file, plain_text, shown, shown_all

_CLIPS = {"subset": 500, "full": 5_031}
_OPTIONS = tuple(f"option {place}" for place in range(5))


class EgoSchema(ChoiceDataModule):
    """EgoSchema: a question with five options about each of 5,031 clips of three minutes, cut from Ego4D; no training.

    The answers to 500 of them are public, and are the test split; those of all are checked by the authors' server, for
    which `petl-bench predict` writes what was chosen. Options are sentences of up to 45 words or so. Behind its
    question an option often exceeds the 77 tokens that CLIP reads, and what is cut is the option; so it is compared
    alone, and a run says how many are cut. Nothing is meant to be trained on it.

    Args:
        root: folder with the annotation files and, below it, the clips, `<q_uid>.mp4`.
        split_protocol: `subset` (500 with answers), or `full` (5,031, without).
        questions_file: JSON list with `q_uid`, `question` and `option 0` to `option 4`, or the same by `q_uid` (LLoVi,
            VideoAgent).
        answers_file: JSON with the index of the right option by `q_uid`, for `subset`; null takes `truth` of the
            questions, as LLoVi has it.
        clips_file: JSON with the place in Ego4D by `q_uid`, which lists the clips of `full`; only counted where the
            questions are not there.
        compare: `option`, or `question and option` with the question before each.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "egoschema"
    evaluation_only = True

    def __init__(
        self,
        root: Path,
        split_protocol: Literal["subset", "full"] = "subset",
        questions_file: str = "questions.json",
        answers_file: str | None = "subset_answers.json",
        clips_file: str = "uid_to_ego4d.json",
        compare: Literal["option", "question and option"] = "option",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol, self.compare = split_protocol, compare
        self.questions_file, self.answers_file, self.clips_file = questions_file, answers_file, clips_file

    @property
    def protocol(self) -> Protocol:
        """`egoschema-subset/v1` or `egoschema-full/v1`."""
        clips = {"test": _CLIPS[self.split_protocol]}
        return Protocol(f"egoschema-{self.split_protocol}/v1", clips, clips)

    def annotation_files(self) -> dict[str, Path]:
        files = {"questions": self.root / self.questions_file}
        return files | ({"answers": path} if (path := self._answers_path) else {})

    @property
    def _answers_path(self) -> Path | None:
        """The file of answers, where they count."""
        named = self.answers_file if self.split_protocol == "subset" else None
        return self.root / named if named else None

    def video_ids(self, split: Split) -> list[str]:
        """Those of the test split are in other files, too, than the questions."""
        if split != "test" or is_file(self.root / self.questions_file):
            return super().video_ids(split)
        path = self._answers_path or self.root / self.clips_file
        return list(_by_uid(path)) if is_file(path) else super().video_ids(split)

    def questions(self, split: Split) -> Iterator[Asked]:
        if split != "test":
            return
        asked = set()
        for record in read_questions(self.root / self.questions_file):
            uid = record.name("q_uid")
            asked.add(uid)
            if self._answers_path is None or uid in self._answers:
                yield self._read(record, uid, self._answers.get(uid))
        left = [uid for uid in self._answers if uid not in asked]
        if left and not self.partial:
            told = f"{self._answers_path}: {len(left)} answers are to no question of {self.root / self.questions_file}"
            raise DataError(f"{told}: {shown_all(left)}; do the files belong together?")

    @cached_property
    def _answers(self) -> dict[str, Record]:
        """What answers the questions of the subset, by `q_uid`."""
        path = self._answers_path
        answers = _by_uid(path) if path else {}
        return {uid: Record({"answer": answer}, f"{path}: {shown(uid)}") for uid, answer in answers.items()}

    def submission(self, answers: Mapping[int | str, Any]) -> dict[str, Any]:
        """`{q_uid: index}`, which the authors' server and Kaggle take."""
        return {str(uid): chosen for uid, chosen in answers.items()}

    def _read(self, record: Record, uid: str, answer: Record | None) -> Asked:
        options, text = self.options_of(record, texts_of(record, _OPTIONS)), record.caption("question")
        right = None if answer is None else chosen_by_index(answer, "answer", options)
        if record.has("truth"):
            told = chosen_by_index(record, "truth", options)
            if right not in (None, told):
                raise DataError(f"{record.where}: 'truth' is {told}, and {self._answers_path} says {right}")
            right = told if self.split_protocol == "subset" else None
        elif self.split_protocol == "subset" and right is None:
            raise record.error("truth", "the index of an option")
        prompt = text if self.compare == "question and option" else ""
        return Asked(uid, text, choice_question(uid, "question", options, right, prompt), record.where)


def read_questions(path: Path) -> list[Record]:
    """The questions of either shape: a list, or by `q_uid`.

    Raises:
        DataError: the file is of another shape, or an object is none; it names the record.
    """
    values = read_json(path)
    if isinstance(values, list):
        return read_records(path)
    records = []
    for uid, value in _by_uid(path).items():
        where = f"{path}: {shown(uid)}"
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected a question with its options, found {described(value)}")
        records.append(Record({"q_uid": uid} | value, where))
    return records


def _by_uid(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict) or not values:
        raise DataError(f"{path}: expected values by q_uid, found {described(values)}; wrong file?")
    return {plain_text(uid): value for uid, value in values.items()}
