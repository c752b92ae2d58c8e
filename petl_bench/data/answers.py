"""Answer vocabularies: which answers a classifier can give, and where they come from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.data.annotations import read_json, read_records, read_table, read_text, require_keys
from petl_bench.errors import DataError, UsageError


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


def find_answer_list(answer_list: Path, root: Path | None) -> Path:
    """The file that `task.answer_list` names: below the dataset's folder, as annotation files are.

    Without such a file one in the current folder is taken, with a warning: earlier versions wrote those into
    `config.yaml`.

    Args:
        answer_list: absolute, or relative to `root`.
        root: folder of the dataset; None for the current folder.
    """
    own = Path(answer_list).expanduser()
    if root is None:
        return own
    below = Path(root).expanduser() / own  # own itself where it is absolute
    if below.is_file() or not own.is_file():
        return below
    rank_zero_warn(f"task.answer_list: {below} does not exist; taking {own.absolute()}, from the current folder")
    return own


def read_vocabulary(path: Path, max_answers: int | None = None) -> Vocabulary:
    """Reads an answer list, or takes the most frequent answers of an annotation file.

    Lists, taken whole: a JSON object from answer to place (`train_ans2label.json`), a JSON list of answers
    (`answer_list.json`), or text with one answer per line (`.txt`). Annotation files: a JSON list, `.jsonl` or `.csv`
    of records with an `answer`; equally frequent answers come in alphabetical order.

    Args:
        path: the file.
        max_answers: of an annotation file, how many answers to take; null takes all. Null for a list.

    Raises:
        DataError: if the file is unreadable, of another shape, or lists an answer twice.
        UsageError: if `max_answers` is given for a list, or is not positive.
    """
    if max_answers is not None and max_answers < 1:
        raise UsageError(f"max_answers is {max_answers}: it must be at least 1, or null")
    if not path.is_file():
        raise DataError(
            f"no file {path.absolute()} to take the answers from: set data.root to the folder that holds it, or "
            "--model.init_args.task.init_args.answer_list to a file below data.root or to an absolute path"
        )
    if path.suffix == ".txt":
        listed: Any = read_text(path).splitlines()
    elif path.suffix == ".csv":
        listed = [record for _, record in read_table(path)]
    else:
        listed = read_records(path) if path.suffix == ".jsonl" else read_json(path)
    if _is_annotation(listed):
        return Vocabulary(_most_frequent(listed, max_answers, path), path.name)
    if max_answers is not None:
        raise UsageError(f"max_answers is {max_answers}, but {path} is an answer list, which is taken whole: set null")
    return Vocabulary(_in_given_order(listed, path), path.name)


def _is_annotation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _most_frequent(records: Sequence[Any], count: int | None, path: Path) -> tuple[str, ...]:
    answers = [require_keys(r, ("answer",), f"{path}, record {place}")[0] for place, r in enumerate(records)]
    found = sorted(Counter(answers).items(), key=lambda item: (-item[1], item[0]))
    return tuple(answer for answer, _ in found[:count])


def _in_given_order(listed: Any, path: Path) -> tuple[str, ...]:
    if isinstance(listed, dict):
        places = list(listed.values())
        if not all(isinstance(p, int) for p in places) or sorted(places) != list(range(len(places))):
            raise DataError(f"{path}: its values are not the places 0 to {len(places) - 1}; is it an answer list?")
        listed = sorted(listed, key=listed.__getitem__)
    if not isinstance(listed, list) or not listed or not all(isinstance(answer, str) for answer in listed):
        raise DataError(f"{path}: neither a list of answers nor records with an 'answer'; wrong file?")
    twice = next((answer for answer, count in Counter(listed).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: answer {twice!r} is listed more than once")
    return tuple(listed)
