"""The base of data modules whose questions are answered by choosing one of several options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.data.annotations import Record, one_line
from petl_bench.data.batch import Question
from petl_bench.data.qa import QuestionAnswerDataModule
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import plain_text, shown, shown_all, whole_number

#: what is asked where options are captions
WHICH_CAPTION = "which caption describes the clip"


class ChoiceDataModule(QuestionAnswerDataModule):
    """Clips and questions about them with options, one of which is right. Subclasses read annotation files."""

    texts = "choice questions"
    unique_in_training = True
    #: how many options each question has, where its file lists them
    options_each: ClassVar[int | None] = None
    #: whether two options of a question may be the same text, as in what some datasets distribute: they then tie
    repeats_options: ClassVar[bool] = False
    #: the official figure, by its name in records: over all questions, or `mean_of_types`
    headline: ClassVar[Literal["accuracy", "mean_of_types"]] = "accuracy"

    def annotations(self, split: Split) -> list[Sample]:
        samples = super().annotations(split)
        repeated = [
            str(question.id)
            for sample in samples
            for question in sample.questions
            if len(set(question.choices)) < len(question.choices)
        ]
        if repeated:
            rank_zero_warn(
                f"{split} split: {len(repeated)} questions have an option twice, which tie: {shown_all(repeated)}"
            )
        return samples

    def protocol_record(self, split: Split = "test") -> dict[str, Any]:
        """As of all data modules, with the official figure where that is not the accuracy over all questions."""
        told = {} if self.headline == "accuracy" else {"headline": self.headline}
        return super().protocol_record(split) | told

    def options_of(self, record: Record, options: Sequence[str]) -> tuple[str, ...]:
        """The options of a question, white space within them collapsed.

        Raises:
            DataError: there are fewer than two, or others than `options_each`, one is blank, or two are equal where the
                dataset has no such questions.
        """
        found = tuple(map(one_line, options))
        if len(found) < 2 or not all(found):
            raise DataError(f"{record.where}: {len(found)} options, {sum(map(bool, found))} of them with a text")
        if self.options_each not in (None, len(found)):
            raise DataError(f"{record.where}: {len(found)} options, each question has {self.options_each}")
        if len(set(found)) < (2 if self.repeats_options else len(found)):
            twice = next(option for option in found if found.count(option) > 1)
            raise DataError(f"{record.where}: option {shown(twice)} is given twice, so no answer is the right one")
        return found


def texts_of(record: Record, keys: Sequence[str]) -> list[str]:
    """The options that a record has under names of their own; a table may write numbers.

    Raises:
        DataError: one is missing or blank.
    """
    return [record.text(key) for key in keys]


def chosen_by_index(record: Record, key: str, options: Sequence[str]) -> int:
    """The index of the right option, from 0, as a number or its digits.

    Raises:
        DataError: it is no index of an option.
    """
    value = record.values.get(key)
    if isinstance(value, str):
        text = plain_text(value).strip()
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else value
    number = whole_number(value)
    if number is None or not 0 <= number < len(options):
        raise record.error(key, f"the index of an option, 0 to {len(options) - 1}")
    return number


def chosen_by_text(record: Record, key: str, options: Sequence[str]) -> int:
    """The index of the right option, which is given as its text; of two that are equal the first one.

    Raises:
        DataError: it is none of the options.
    """
    text = record.caption(key)
    if text not in options:
        raise record.error(key, f"one of the options ({shown_all(list(options))})")
    return list(options).index(text)


def choice_question(
    id: int | str, type: str, choices: tuple[str, ...], correct: int | None, prompt: str = "", group: str = ""
) -> Question:
    """A question with choices; its answer as a text is that of the right one."""
    answers = () if correct is None else (choices[correct],)
    return Question(id, type, answers, 1.0, choices, correct, prompt, group)
