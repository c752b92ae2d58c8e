"""Which queries an evaluation had: what `ranks.npz` holds beside ranks, so that others can read them without the data.

Row i of an array is the sample with index i, as in the task's own arrays. That is all that joins them, so a data module
or a task of somebody else's needs nothing of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from petl_bench.data.samples import Sample

#: characters of a column of texts, which has the width of its longest: 128 MB
_MOST_CHARACTERS = 2**25
#: between several answers to one question
ANSWERS_BETWEEN = " | "


def queries_of(samples: Sequence[Sample], words: bool) -> dict[str, np.ndarray]:
    """The queries of a split as plain arrays of integers and text.

    Args:
        samples: of V videos with M captions, or questions, in all.
        words: whether what they say is told, or only what they are called.

    Returns:
        `video_id` (V,); `text_id` (M,): of the annotations, else `<video id>#<number from 0>`; `text_video` (M,), the
        row of each text's video. Where several clips are parts of one file, `video_file` (V,): the row of the first
        clip of each one's file. With `words`: `words` (M,), and of questions `answers` (M,): the expected ones, the
        most frequent first, with ` | ` between them.
    """
    captions = [caption for sample in samples for caption in sample.captions]
    questions = [question for sample in samples for question in sample.questions]
    arrays = {
        "video_id": _ids([sample.video for sample in samples]),
        "text_id": _ids(_text_ids(samples)),
        "text_video": np.repeat(np.arange(len(samples)), [len(sample.captions) for sample in samples]),
    }
    files = [sample.file_id for sample in samples]
    if len(first := {file: row for row, file in reversed([*enumerate(files)])}) < len(files):
        arrays["video_file"] = np.array([first[file] for file in files])
    if words:
        arrays["words"] = _texts(captions)
    if words and questions:
        arrays["answers"] = _texts([_expected(question.answers) for question in questions])
    return arrays


def _text_ids(samples: Sequence[Sample]) -> list[str]:
    given = [[str(question.id) for question in sample.questions] or sample.caption_ids for sample in samples]
    names = [name for of_sample in given for name in of_sample]
    complete = all(len(own) == len(sample.captions) for own, sample in zip(given, samples, strict=True))
    if complete and all(map(str.strip, names)) and len(set(names)) == len(names):
        return names
    return [f"{sample.video}#{number}" for sample in samples for number in range(len(sample.captions))]


def _expected(answers: Sequence[str]) -> str:
    return ANSWERS_BETWEEN.join(answer for answer, _ in Counter(answers).most_common())


def _ids(names: Sequence[str]) -> np.ndarray:
    """Names, or their places where they are too long: cut ones would not tell two apart."""
    fits = max(map(len, names)) * len(names) <= _MOST_CHARACTERS
    return _texts(names if fits else [str(place) for place in range(len(names))])


def _texts(texts: Sequence[str]) -> np.ndarray:
    width = max(1, _MOST_CHARACTERS // len(texts))
    # numpy takes zeros at the end of a text for its padding
    whole = [text.replace("\0", " ") for text in texts]
    return np.array([text if len(text) <= width else f"{text[: width - 1]}…" for text in whole], dtype=np.str_)
