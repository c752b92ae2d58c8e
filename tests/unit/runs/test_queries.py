"""What is told of the queries of a split."""

from __future__ import annotations

import numpy as np
import pytest

import petl_bench.runs.queries
from petl_bench.data.batch import Question
from petl_bench.data.samples import Sample
from petl_bench.runs.queries import queries_of

CAPTIONED = [Sample("v0", ("a cat", "a\0dog")), Sample("v1", ("zażółć",))]


def lists(samples: list[Sample], words: bool = True) -> dict[str, list[object]]:
    found = queries_of(samples, words)
    assert all(array.dtype.kind in "iU" for array in found.values())
    return {name: array.tolist() for name, array in found.items()}


def test_captions() -> None:
    assert lists(CAPTIONED) == {
        "video_id": ["v0", "v1"],
        "text_id": ["v0#0", "v0#1", "v1#0"],
        "text_video": [0, 0, 1],
        "words": ["a cat", "a dog", "zażółć"],
    }


def test_without_words() -> None:
    samples = [Sample("v0", ("what?",), questions=(Question(7, "what", ("cat",)),))]
    assert lists(samples, words=False).keys() == {"video_id", "text_id", "text_video"}


def test_parts_of_one_file_say_so() -> None:
    """A clip and its reverse, and windows of one video; a file with a single part is the clip."""
    turned = [Sample("v0", ("a",)), Sample("v0_reversed", ("b",), file="v0", reverse=True), Sample("v1", ("c",))]
    assert lists(turned)["video_file"] == [0, 0, 2]
    windows = [Sample(f"w_{part}", ("a", "b"), file=file) for part, file in enumerate("xyx")]
    found = lists(windows, words=False)
    assert (found["video_file"], found["text_video"]) == ([0, 1, 0], [0, 0, 1, 1, 2, 2])
    assert "video_file" not in lists(windows[:2])


def test_questions_have_ids_and_expected_answers() -> None:
    answers = ("cat", "dog", "dog", "a | b")
    questions = (Question(7, "what", answers), Question("q8", "how", ("two",)))
    found = lists([Sample("v0", ("what?", "how many?"), questions=questions)])
    assert found["text_id"] == ["7", "q8"]
    assert found["answers"] == ["dog | cat | a | b", "two"]
    assert found["words"] == ["what?", "how many?"]


@pytest.mark.parametrize(
    ("of_first", "of_second", "expected"),
    [
        (("s1", "s2"), ("s3",), ["s1", "s2", "s3"]),
        (("s1", "s2"), ("s2",), None),  # not unique
        (("s1", " "), ("s3",), None),
        (("s1",), ("s2", "s3"), None),  # as many as captions, but not of each
        (("s1", "s2"), (), None),
    ],
)
def test_captions_are_called_as_the_annotations_do_or_by_their_number(
    of_first: tuple[str, ...], of_second: tuple[str, ...], expected: list[str] | None
) -> None:
    samples = [Sample("v0", ("a", "b"), caption_ids=of_first), Sample("v1", ("c",), caption_ids=of_second)]
    assert lists(samples)["text_id"] == (expected or ["v0#0", "v0#1", "v1#0"])


def test_texts_of_any_length_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(petl_bench.runs.queries, "_MOST_CHARACTERS", 30)
    samples = [Sample("v" * 20, ("x" * 100, "short")), Sample("w", ("y",))]
    found = queries_of(samples, words=True)
    assert found["words"].tolist() == ["x" * 9 + "…", "short", "y"]
    assert found["text_id"].tolist() == ["0", "1", "2"]  # cut names would not tell two apart
    assert found["video_id"].tolist() == ["0", "1"]
    assert max(array.nbytes for array in found.values()) <= 4 * 30
    assert np.array_equal(found["text_video"], [0, 0, 1])
