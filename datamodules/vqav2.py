"""VQAv2, with Visual Genome's questions if wanted.

Sources: Goyal et al., arXiv 1612.00837; Visual Genome: Krishna et al., arXiv 1602.07332.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, read_records, read_section
from petl_bench.data.answers import plain_answer
from petl_bench.data.batch import Question
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.karpathy import image_id, image_names
from petl_bench.data.qa import Asked, QuestionAnswerDataModule
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError, UsageError
from petl_bench.ranges import Positive
from petl_bench.storage.untrusted import shown

#: images and questions by part
_IMAGES = {"train": 82_783, "val": 40_504, "test": 81_434}
_QUESTIONS = {"train": 443_757, "val": 214_354, "test": 447_793, "test-dev": 107_394}
_COCO = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
#: each of ten annotators counts as a tenth of an answer
_VOTE = 0.1


class VQAv2(QuestionAnswerDataModule):
    """VQAv2: questions about COCO images, ten answers each; the official accuracy is `score: vqa` of the task.

    The answers of the test parts are not public: train with `train_on: train+val`, then `petl-bench predict` writes the
    file that EvalAI takes. For figures of your own train on `train` and test on `val`. The type of a question is the
    official answer type (yes/no, number, other), which BLIP's files do not have.

    Args:
        root: folder with the annotation files and, below it, the images.
        train_on: `train`, or `train+val`.
        test_on: `val`, `test` or `test-dev`.
        source: whose files: `official` (`v2_OpenEnded_mscoco_*_questions.json`, `v2_mscoco_*_annotations.json`) or
            `blip` (`vqa_train.json`, `vqa_val.json`, `vqa_test.json`).
        files: names that differ from the usual ones, e.g. `{train_questions: my.json, train_annotations: his.json}`, or
            with `blip` `{train: my.json}`.
        visual_genome: BLIP's `vg_qa.json`, whose questions are trained on, too; null leaves them out.
        visual_genome_weight: of an answer of Visual Genome in the loss: 0.2 in BLIP and UniAdapter, 1.0 in LAVIS.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "vqav2"
    suffixes = IMAGE_SUFFIXES

    def __init__(
        self,
        root: Path,
        train_on: Literal["train", "train+val"] = "train",
        test_on: Literal["val", "test", "test-dev"] = "val",
        source: Literal["official", "blip"] = "official",
        files: dict[str, str] | None = None,
        visual_genome: str | None = None,
        visual_genome_weight: Positive = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if train_on == "train+val" and test_on == "val":
            raise UsageError("data.train_on train+val has seen the images of test_on val: set test_on test or test-dev")
        self.train_on, self.test_on, self.source, self.given = train_on, test_on, source, files or {}
        self.visual_genome, self.visual_genome_weight = visual_genome, visual_genome_weight

    @property
    def protocol(self) -> Protocol:
        parts = self.train_on.split("+")
        vg = "" if self.visual_genome is None else f"+vg-{self.visual_genome_weight:g}"
        # Visual Genome's size is not established.
        train = {} if vg else {"train": sum(_QUESTIONS[part] for part in parts)}
        return Protocol(
            f"vqav2-{self.train_on}{vg}-on-{self.test_on}/v1",
            {"test": _IMAGES[self.test_on]} if self.test_on in _IMAGES else {},
            train | {"test": _QUESTIONS[self.test_on]},
        )

    def annotation_files(self) -> dict[str, Path]:
        files = {}
        for part in dict.fromkeys((*self.train_on.split("+"), self.test_on)):
            files |= {role: self.root / name for role, name in self._names(part).items()}
        return files | ({"visual_genome": self.root / self.visual_genome} if self.visual_genome else {})

    def file_option(self, role: str) -> str | None:
        return role if role == "visual_genome" else "files"

    def _names(self, part: str) -> dict[str, str]:
        """Names of the files of a part by role."""
        if self.source == "blip":
            return {part: self.given.get(part, f"vqa_{part.replace('-', '_')}.json")}
        names = {f"{part}_questions": f"v2_OpenEnded_mscoco_{_COCO[part]}_questions.json"}
        if not part.startswith("test"):
            names[f"{part}_annotations"] = f"v2_mscoco_{_COCO[part]}_annotations.json"
        return {role: self.given.get(role, name) for role, name in names.items()}

    def questions(self, split: Split) -> Iterator[Asked]:
        if split == "val":
            return
        for part in self.train_on.split("+") if split == "train" else [self.test_on]:
            paths = [self.root / name for name in self._names(part).values()]
            yield from read_blip(*paths) if self.source == "blip" else read_official(part, *paths)
        if split == "train" and self.visual_genome:
            yield from read_visual_genome(self.root / self.visual_genome, self.visual_genome_weight)


def read_official(part: str, questions: Path, annotations: Path | None = None) -> Iterator[Asked]:
    """The questions of a part, with their answers where there are any.

    Raises:
        DataError: if a record is of another shape, or a question has no annotation; it is named.
    """
    answers = {} if annotations is None else _official_answers(annotations)
    folder = "test2015" if part == "test-dev" else _COCO[part]
    names: dict[int, tuple[str, str]] = {}  # one copy for all questions about an image
    for record in read_section(questions, "questions"):
        text, number, image = record.text("question"), _number(record, "question_id"), _number(record, "image_id")
        if annotations is not None and number not in answers:
            raise DataError(f"{record.where}: question {shown(number)} has no annotation in {annotations.name}")
        kind, given = answers.get(number, ("unknown", ()))
        if image not in names:
            name = f"COCO_{folder}_{image:012d}"
            names[image] = (f"{folder}/{name}", name)
        question = Question(number, kind, given, _VOTE)
        yield Asked(names[image][1], text, question, record.where, names[image])


def _official_answers(path: Path) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Answer type and answers by question."""
    found = {}
    for record in read_section(path, "annotations"):
        answers = record.strings_of("answers", "answer")
        kind = record.name("answer_type") if record.has("answer_type") else "unknown"  # some extracts leave it out
        found[_number(record, "question_id")] = (sys.intern(kind), _interned(answers))
    return found


def read_blip(path: Path) -> Iterator[Asked]:
    """The questions of a JSON list in BLIP's shape; a record without `answer` is one of the test split.

    Raises:
        DataError: if a record is of another shape; it is named.
    """
    names: dict[str, tuple[str, ...]] = {}  # one copy for all questions about an image
    for record in read_records(path):
        answers = _interned(record.strings("answer")) if "answer" in record.values else ()
        question, image = Question(_number(record, "question_id"), "unknown", answers, _VOTE), record.name("image")
        of_image = names.setdefault(image, image_names(image))
        yield Asked(image_id(image), record.text("question"), question, record.where, of_image)


def read_visual_genome(path: Path, weight: float) -> Iterator[Asked]:
    """Visual Genome's questions in BLIP's shape, one answer each; their ids are negative, as they have none.

    Raises:
        DataError: if a record is of another shape; it is named.
    """
    names: dict[str, tuple[str, ...]] = {}
    for place, record in enumerate(read_records(path)):
        question, image = Question(-1 - place, "vg", _interned(record.strings("answer")), weight), record.name("image")
        of_image = names.setdefault(image, image_names(image))
        yield Asked(image_id(image), record.text("question"), question, record.where, of_image)


def _number(record: Record, key: str) -> int:
    """A number that the official files give as such, not as text."""
    if isinstance(record.values.get(key), str):
        raise record.error(key, "a whole number")
    return record.whole(key, 0)


def _interned(answers: Iterable[str]) -> tuple[str, ...]:
    """Answers, few of which are many: one copy of each saves most of the memory."""
    return tuple(sys.intern(plain_answer(answer)) for answer in answers)
