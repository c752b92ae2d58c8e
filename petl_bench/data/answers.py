"""Answer vocabularies: which answers a classifier can give, and where they come from."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from petl_bench.data.annotations import Record, read_json, read_numbered, read_table, read_unquoted, read_values
from petl_bench.errors import DataError, UsageError
from petl_bench.storage.untrusted import expanded, is_file, plain_text, shown

if TYPE_CHECKING:
    from petl_bench.data.batch import Question

#: name of the file that `Vocabulary.saved` is the content of
SAVED_NAME = "answers.petl_bench.json"


@dataclass(frozen=True)
class Vocabulary:
    """Answers in the order of a classifier's outputs.

    Attributes:
        answers: each once.
        file: name of the file they come from.
    """

    answers: tuple[str, ...]
    file: str

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each answer."""
        return {answer: place for place, answer in enumerate(self.answers)}

    @cached_property
    def sha256(self) -> str:
        """Of the answers in their order: what the outputs of a trained head mean."""
        return hashlib.sha256(json.dumps(self.answers).encode()).hexdigest()

    @property
    def saved(self) -> str:
        """As `read_vocabulary` takes it, the name of the file included."""
        return json.dumps({"file": self.file, "answers": self.answers})

    def coverage(self, questions: Iterable[Question]) -> float:
        """Share of questions, 0 to 1, of which an annotated answer is among these; 1 if there are none."""
        known = [not self.index.keys().isdisjoint(question.answers) for question in questions]
        return sum(known) / len(known) if known else 1.0


def plain_answer(text: str) -> str:
    """An answer as it is compared: without surrounding white space, in Unicode's composed form (NFC)."""
    return normalize("NFC", plain_text(text)).strip()


def find_answer_list(answer_list: Path, root: Path | None) -> Path:
    """The file that `task.answer_list` names: below the dataset's folder, as annotation files are.

    Without such a file one in the current folder is taken, with a warning: earlier versions wrote those into
    `config.yaml`.

    Args:
        answer_list: absolute, or relative to `root`.
        root: folder of the dataset; None for the current folder.
    """
    own = expanded(answer_list)
    if root is None:
        return own
    below = expanded(root) / own  # own itself where it is absolute
    if below.is_file() or not own.is_file():
        return below
    message = f"task.answer_list: {below} does not exist; taking {own.absolute()}, from the current folder"
    warnings.warn(message, stacklevel=2)
    return own


def read_vocabulary(path: Path, max_answers: int | None = None) -> Vocabulary:
    """Reads an answer list, or takes the most frequent answers of an annotation file.

    Lists, taken whole: text with one answer per line (`.txt`), a JSON list of answers (`answer_list.json`), a JSON
    object from answer to place (`train_ans2label.json`), jsonl with one text per line, or a table with the single
    column `answer`. Annotation files: a JSON list, jsonl or a table (`.csv`, `.tsv`) of records with an `answer` among
    other values, in JSON also a list of answers; equally frequent answers come in alphabetical order.

    An adapter file holds a vocabulary as a JSON object with `file` and `answers` (`Vocabulary.saved`), which is taken
    as it is.

    White space around an answer is no part of it, and blank lines of text are none; JSON may list one empty answer.

    Args:
        path: the file.
        max_answers: of an annotation file, how many answers to take; null takes all. Null for a list.

    Raises:
        DataError: if the file is unreadable, of another shape, or lists an answer twice.
        UsageError: if `max_answers` is given for a list, or is not positive.
    """
    if max_answers is not None and max_answers < 1:
        raise UsageError(f"max_answers is {max_answers}: it must be at least 1, or null")
    if not is_file(path):
        raise DataError(
            f"no file {path.absolute()} to take the answers from: set data.root to the folder that holds it, or "
            "the task's answer_list to a file below data.root or to an absolute path"
        )
    if (saved := _saved(path)) is not None:
        return saved
    listed = _read(path)
    if any(isinstance(value, Record) and value.values.keys() != {"answer"} for _, value in listed):
        return Vocabulary(_most_frequent(listed, max_answers), path.name)
    if max_answers is not None:
        raise UsageError(f"max_answers is {max_answers}, but {path} is an answer list, which is taken whole: set null")
    return Vocabulary(_in_given_order(path, listed), path.name)


def _saved(path: Path) -> Vocabulary | None:
    """What `Vocabulary.saved` gave; None for other files."""
    value = read_json(path) if path.name == SAVED_NAME else None
    if not isinstance(value, dict) or value.keys() != {"file", "answers"}:
        return None
    file, answers = value["file"], value["answers"]
    texts = isinstance(file, str) and isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    if not texts or not answers or len(set(answers)) < len(answers):
        raise DataError(f"{path}: 'answers' is no list of different answers, or 'file' no text; damaged")
    return Vocabulary(tuple(answers), file)


def _read(path: Path) -> list[tuple[str, Record | str]]:
    """What a file lists, in order, each with its place: answers, or records of which each holds some."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return [(f"{path}, line {number}", line) for number, line in read_numbered(path)]
    if suffix in (".csv", ".tsv"):
        return [(record.where, record) for record in _table(path)]
    if suffix != ".jsonl" and isinstance(value := read_json(path), dict):
        return _by_place(path, value)
    return [(where, _entry(where, value)) for where, value in read_values(path)]


def _table(path: Path) -> list[Record]:
    """The records of a table; one whose quotes are damaged may be of a dataset where they are text (TGIF-QA)."""
    try:
        return read_table(path, ("answer",))
    except DataError as error:
        try:
            return read_unquoted(path, ("answer",))
        except DataError:
            raise error from None


def _entry(where: str, value: Any) -> Record | str:
    if isinstance(value, dict):
        return Record(value, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: {shown(value)} is neither an answer nor a record with an 'answer'; wrong file?")
    return value


def _by_place(path: Path, places: dict[str, Any]) -> list[tuple[str, Record | str]]:
    given = list(places.values())
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in given)
    if not given or not whole or sorted(given) != list(range(len(given))):
        raise DataError(f"{path}: its values are not the places 0 to {len(given) - 1}; is it an answer list?")
    return [(f"{path}, place {places[answer]}", answer) for answer in sorted(places, key=places.__getitem__)]


def _most_frequent(listed: Sequence[tuple[str, Record | str]], count: int | None) -> tuple[str, ...]:
    found: Counter[str] = Counter()
    for where, record in listed:
        if not isinstance(record, Record):
            raise DataError(f"{where}: {shown(record)} stands among records with an 'answer'; wrong file?")
        found.update(read_answers(record))
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(answer for answer, _ in ranked[:count])


def _in_given_order(path: Path, listed: Sequence[tuple[str, Record | str]]) -> tuple[str, ...]:
    places: dict[str, str] = {}
    answers = []
    for where, value in listed:
        answer = plain_answer(value.text("answer") if isinstance(value, Record) else value)
        alike = " ".join(answer.split())
        if alike in places:
            raise DataError(f"{where}: answer {shown(answer)} occurs above, too ({places[alike].rsplit(', ', 1)[-1]})")
        places[alike] = where
        answers.append(answer)
    if not any(answers):
        raise DataError(f"{path}: no answer in it")
    return tuple(answers)


def read_answer(record: Record) -> str:
    """The one answer to a question.

    Raises:
        DataError: if it is missing, blank or no text.
    """
    return plain_answer(record.text("answer"))


def read_answers(record: Record) -> tuple[str, ...]:
    """The answers to a question: a text, or a list with one for each annotator.

    Raises:
        DataError: if there is none, or one is blank or no text.
    """
    answers = tuple(map(plain_answer, record.strings("answer")))
    if not all(answers):
        raise DataError(f"{record.where}: 'answer' is missing or blank")
    return answers
