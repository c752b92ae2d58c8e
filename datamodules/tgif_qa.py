"""TGIF-QA, four tasks on animated GIFs, read from the files the field distributes (Jang et al., CVPR 2017)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from petl_bench.data.annotations import Record, read_numbered, read_table, read_unquoted
from petl_bench.data.answers import read_answer
from petl_bench.data.batch import Question
from petl_bench.data.choice import ChoiceDataModule, choice_question, chosen_by_index, texts_of
from petl_bench.data.qa import Asked, QuestionAnswerDataModule, first_file, question_type
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import plain_text, shown

#: of the test split; on action and count every GIF has one question
_TEST = {"action": (2_274, 2_274), "transition": (3_116, 6_232), "frameqa": (7_132, 13_691), "count": (3_554, 3_554)}
#: of the training split by what is said to be it: the repository lacks four GIFs that its README counts
_ACTION = {"repo": 20_471, "hqga": 20_473, "readme": 20_475}
_COUNT = {"repo": 26_839, "readme": 26_843}
_TRANSITION = 52_704
_FRAMEQA = (32_347, 39_392)
#: options, as the official files and those of HQGA call them
_OPTIONS = {True: ("a1", "a2", "a3", "a4", "a5"), False: ("a0", "a1", "a2", "a3", "a4")}
#: by the number that stands for each
_TYPES = ("object", "number", "color", "location")
#: the largest answer, which stands for "10 or more"
_MOST = 10


class _TGIF(QuestionAnswerDataModule):
    """What the four tasks share: the files, their two forms, and the names of GIFs.

    The official files have tabs between columns, no quoting, and name GIFs (`gif_name`); those of HQGA have commas and
    number GIFs by `key`. There is no validation split: `val_videos` holds GIFs out by the hash of their names.

    Args:
        root: folder with the annotation files and, below it, the GIFs, `<gif_name>.gif`.
        train_file: questions of the training split; null takes the first of the usual files that is there.
        test_file: the same for the test split.
        keys_file: an official file of the same questions (`Total_action_question.csv`), which says the names of the
            GIFs that HQGA's files number; null where files of GIFs have the numbers for names. The official files do
            not need it.
        **kwargs: see `VideoTextDataModule`.
    """

    #: as files are named
    part: ClassVar[str]

    def __init__(
        self,
        root: Path,
        train_file: str | None = None,
        test_file: str | None = None,
        keys_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": train_file, "test": test_file}
        self.keys_file = keys_file

    @abstractmethod
    def read(self, record: Record, official: bool, text: str) -> Question:
        """What belongs to a question, but for its text."""

    def annotation_files(self) -> dict[str, Path]:
        keys = {} if self.keys_file is None else {"keys": self.root / self.keys_file}
        return {split: self._file(split) for split in self.files} | keys

    def questions(self, split: Split) -> Iterator[Asked]:
        if split not in self.files:
            return
        for record in _records(self._file(split)):
            official = record.has("gif_name")
            text = record.caption("question")
            yield Asked(self._video(record, official), text, self.read(record, official, text), record.where)

    def _file(self, split: str) -> Path:
        usual = (f"{split.capitalize()}_{self.part}_question.csv", f"{split}.csv")
        return first_file(self.root, split, self.files[split], usual)

    def _video(self, record: Record, official: bool) -> str:
        if official:
            return record.name("gif_name")
        key = record.name("video")
        if self.keys_file is None:
            return key
        if key not in self._names:
            raise DataError(f"{record.where}: no GIF has the key {shown(key)} in {self.root / self.keys_file}")
        return self._names[key]

    @cached_property
    def _names(self) -> dict[str, str]:
        """Names of GIFs by the key that stands for them."""
        names: dict[str, str] = {}
        for record in read_unquoted(self.root / str(self.keys_file), ("gif_name", "key")):
            key, name = record.name("key"), record.name("gif_name")
            if names.setdefault(key, name) != name:
                raise DataError(f"{record.where}: key {shown(key)} is that of {shown(names[key])}, too")
        return names


class _Choices(_TGIF, ChoiceDataModule):
    """Five options, which the official files number from 1, and the right one from 0."""

    def read(self, record: Record, official: bool, text: str) -> Question:
        options = self.options_of(record, texts_of(record, _OPTIONS[official]))
        right = chosen_by_index(record, "answer", options)
        return choice_question(_id(record, official), question_type(text), options, right, prompt=text)


class TGIFAction(_Choices):
    """TGIF-QA Action: what is done a given number of times; five options, one question for each GIF.

    Options can be told apart without the GIF: how often each is right in training gives 39.5 % of the test questions,
    and models score above 94 % where distractors were drawn so (60.8 % once they are repaired, TGIF-QA-R of CoVGT): no
    evidence of understanding video.

    Args:
        root: see `_TGIF`.
        split_protocol: whose training split: `repo` (20,471 GIFs), HQGA's copy (20,473), or that which the README
            counts (20,475), of HME's copy.
        **kwargs: `train_file`, `test_file` and `keys_file` (see the module's text), and `VideoTextDataModule`.
    """

    name = "tgif-action"
    part = "action"

    def __init__(self, root: Path, split_protocol: Literal["repo", "hqga", "readme"] = "repo", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol = split_protocol

    @property
    def protocol(self) -> Protocol:
        """`tgif-action-repo/v1`, `tgif-action-hqga/v1` or `tgif-action-readme/v1`."""
        train = _ACTION[self.split_protocol]
        return _protocol("action", f"-{self.split_protocol}", train, train)


class TGIFTransition(_Choices):
    """TGIF-QA Transition: what is done before or after something else; five options, two questions for each GIF.

    As with Action, options can be told apart without the GIF (97.6 % by CoVGT, 73.8 % once distractors are repaired).
    """

    name = "tgif-transition"
    part = "transition"

    @property
    def protocol(self) -> Protocol:
        return _protocol("transition", "", None, _TRANSITION)


class TGIFFrameQA(_TGIF):
    """TGIF-QA FrameQA: 53,083 questions that one frame answers, made from captions, with one-word answers.

    Types are object, number, color and location; HQGA's files have none, and the first word of the question is it. The
    official column `description` is the caption, which holds the answer: it is never read. Answers seen in training
    cover 98.2 % of the test questions, the 1,000 most frequent 97.0 %, which no classifier can exceed.
    """

    name = "tgif-frameqa"
    part = "frameqa"

    @property
    def protocol(self) -> Protocol:
        return _protocol("frameqa", "", *_FRAMEQA)

    def read(self, record: Record, official: bool, text: str) -> Question:
        kind = _TYPES[_number(record, "type", len(_TYPES) - 1)] if record.has("type") else question_type(text)
        return Question(_id(record, official), kind, (read_answer(record),))


class TGIFCount(_TGIF):
    """TGIF-QA Count: how often something is done, 0 or 2 to 10, where 10 is "10 or more"; one question for each GIF.

    Args:
        root: see `_TGIF`.
        split_protocol: whose training split: `repo` (26,839 GIFs), or that which the README counts (26,843), of HME's
            copy.
        **kwargs: `train_file`, `test_file` and `keys_file` (see the module's text), and `VideoTextDataModule`.
    """

    name = "tgif-count"
    part = "count"
    texts = "count questions"

    def __init__(self, root: Path, split_protocol: Literal["repo", "readme"] = "repo", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol = split_protocol

    @property
    def protocol(self) -> Protocol:
        """`tgif-count-repo/v1` or `tgif-count-readme/v1`."""
        train = _COUNT[self.split_protocol]
        return _protocol("count", f"-{self.split_protocol}", train, train)

    def read(self, record: Record, official: bool, text: str) -> Question:
        number = _number(record, "answer", _MOST)
        return Question(_id(record, official), "count", (str(number),), number=number)


def _protocol(part: str, copy: str, train_videos: int | None, train_questions: int) -> Protocol:
    videos, questions = _TEST[part]
    known = {} if train_videos is None else {"train": train_videos}
    return Protocol(f"tgif-{part}{copy}/v1", known | {"test": videos}, {"train": train_questions, "test": questions})


def _records(path: Path) -> list[Record]:
    """The records of a file in either form; the first line tells which it is of."""
    header = next(iter(read_numbered(path)), (0, ""))[1]
    if "\t" in header:
        return read_unquoted(path, ("gif_name", "question", "answer", "vid_id"))
    return read_table(path, ("video", "question", "answer", "qid"))


def _id(record: Record, official: bool) -> str:
    return record.name("vid_id" if official else "qid")


def _number(record: Record, key: str, most: int) -> int:
    """A whole number from 0, which tables write as digits.

    Raises:
        DataError: it is none, or larger.
    """
    value = record.values.get(key)
    text = plain_text(value).strip() if isinstance(value, str) else ""
    if not text.isascii() or not text.isdigit() or len(text) > 3 or int(text) > most:
        raise record.error(key, f"a whole number from 0 to {most}")
    return int(text)
