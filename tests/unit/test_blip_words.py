"""Cleaning of captions and questions; the golden test compares with the released code."""

from collections.abc import Callable

import pytest

from petl_bench.blip_words import pre_caption, pre_question


@pytest.mark.parametrize(
    ("text", "caption", "question"),
    [
        ("A Man's dog; it RUNS!", "a man's dog it runs", "a man's dog it runs"),
        ("e.g. this", "e g this", "eg this"),
        ("  two   spaces  ", "two spaces", "  two   spaces"),
        ("where, why?", "where, why?", "where, why?"),
        ("end \n", "end", "end \n"),
        ("", "", ""),
    ],
)
def test_cleaning(text: str, caption: str, question: str) -> None:
    assert pre_caption(text, 30) == caption
    assert pre_question(text, 30) == question


@pytest.mark.parametrize("clean", [pre_caption, pre_question])
def test_first_words_are_kept(clean: Callable[[str, int], str]) -> None:
    assert clean("One two three", 2) == "one two"
    assert clean("One two", 2) == "one two"
