"""Captions and questions are cleaned exactly as in BLIP and UniAdapter."""

from pathlib import Path

import pytest

from petl_bench.blip_words import pre_caption, pre_question
from tests.golden.helpers import Case, golden_files

FUNCTIONS = {"pre_caption": pre_caption, "pre_question": pre_question}


@pytest.mark.parametrize("path", golden_files("blip_text_preprocess*"))
def test_cleaning(path: Path) -> None:
    rows = Case(path).json["rows"]
    results = [(row["text"], *key.rsplit("_", 1), value) for row in rows for key, value in row.items() if key != "text"]
    assert {name for _, name, _, _ in results} == set(FUNCTIONS)
    wrong = [(text, name) for text, name, words, value in results if FUNCTIONS[name](text, int(words)) != value]
    assert not wrong
