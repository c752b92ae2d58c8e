"""What the loaders give to tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from petl_bench.inputs import Clips, Words


class Question(NamedTuple):
    """What belongs to a text that is a question.

    Attributes:
        id: the dataset's own number or text, or the place in the annotation file.
        type: the group its accuracy counts for, e.g. `what`.
        answers: as annotated: one in video QA, ten in VQAv2, none in a test split without labels.
        weight: of each annotated answer in the loss.
        choices: the options, as annotated, of a question that is answered by choosing; else empty.
        correct: index of the right one among them; None where that is not public. It is an index since two options
            may be the same text.
        prompt: what stands before each option where it is compared with the clip: the question; empty where options
            are captions.
        group: of types, where the dataset reports accuracy on two levels.
        number: the annotated answer of a question that asks for a number; None of others, and where it is not public.
    """

    id: int | str
    type: str
    answers: tuple[str, ...]
    weight: float = 1.0
    choices: tuple[str, ...] = ()
    correct: int | None = None
    prompt: str = ""
    group: str = ""
    number: int | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The texts that are compared with the clip, one for each choice."""
        return tuple(f"{self.prompt} {choice}".strip() for choice in self.choices)

    @property
    def weights(self) -> dict[str, float]:
        """Distinct answers in the order given, each with the sum of its weights."""
        found: dict[str, float] = {}
        for answer in self.answers:
            found[answer] = found.get(answer, 0.0) + self.weight
        return found


class SplitTexts(NamedTuple):
    """What a task may read of the test split beside its batches.

    Attributes:
        videos: ids, by `Batch.video_index`.
        captions: by `Batch.text_index`.
        training_captions: gives all captions of the training split, in file order.
        tokenize: gives captions as batches have them.
    """

    videos: tuple[str, ...]
    captions: tuple[str, ...]
    training_captions: Callable[[], list[str]]
    tokenize: Callable[[Sequence[str]], Words]


class WhichWay(Question):
    """Which of two clips a text describes, its own one (option 0) or that in reverse (option 1).

    `prompt` is the text, and `choices` say what the two clips are called.
    """

    __slots__ = ()

    @property
    def options(self) -> tuple[str, ...]:
        return (self.prompt,)


class OwnClips(NamedTuple):
    """The clip that each of M texts belongs to, in numbers that the CPU reads without waiting for a GPU.

    Attributes:
        rows: of the clips in their batch (M,).
        read: whether they could be read (M,).
    """

    rows: Sequence[int]
    read: Sequence[bool]


class Batch(NamedTuple):
    """B clips and the M captions that belong to them (in training M = B, one each).

    Attributes:
        clips: the B clips.
        words: of the M captions.
        video_index: long (B,), position of the video in its split.
        text_index: long (M,), position of the caption in its split.
        text_video: long (M,), position in the split of the video that the caption belongs to.
        decoded: bool (B,), False for a video that could not be read (evaluation only; it counts as failed).
        questions: (M,), where the captions are questions; else empty.
        options: of all questions one after another, where they are answered by choosing; else None.
        located: what `own_clips` gives, of a batch that has gone to a device since; None where nobody has asked.
    """

    clips: Clips
    words: Words
    video_index: Tensor
    text_index: Tensor
    text_video: Tensor
    decoded: Tensor
    questions: tuple[Question, ...] = ()
    options: Words | None = None
    located: OwnClips | None = None

    def own_clips(self) -> OwnClips:
        """The clip of each text; a GPU is waited for unless `located` is known."""
        if self.located is not None:
            return self.located
        rows = rows_of_clips(self)
        return OwnClips(rows.tolist(), self.decoded[rows].tolist())


def rows_of_clips(batch: Batch) -> Tensor:
    """The row of each text's clip (M,)."""
    return (batch.text_video[:, None] == batch.video_index).int().argmax(dim=1)
