"""Tokenizers that an index holds give the rows of the tokenizers they were made of."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from petl_bench.backbones.blip.wordpiece import WordPiece
from petl_bench.blip_words import pre_caption, pre_question
from petl_bench.bpe import clip_tokenize
from petl_bench.inputs import Tokenizer
from petl_bench.search.tokens import tokens
from petl_bench.search.tracing import told_of

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "man", "play", "##ing", "##s", "a", "e", ",", "中")
TEXTS = ("A man plays!", "", "é, [DEC] a [SEP] 中中", "a " * 50, "playings\n\ta  man", "don't")


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


def pieces(vocabulary: Path, clean: Any = pre_caption) -> WordPiece:
    return WordPiece(str(vocabulary), partial(clean, max_words=6), len(PIECES), 3, 0)


def same(tokenizer: Tokenizer) -> None:
    kept = tokens(json.loads(json.dumps(told_of(tokenizer))))
    for text in TEXTS:
        for own, theirs in zip(kept(text, 9), tokenizer([text], 9), strict=True):
            assert own.equal(theirs), text


def test_rows_are_the_same(vocabulary: Path) -> None:
    same(clip_tokenize)
    same(partial(clip_tokenize, vocabulary=600))
    same(pieces(vocabulary))


def test_a_tokenizer_that_no_index_holds(vocabulary: Path) -> None:
    assert told_of(pieces(vocabulary, pre_question)) is None
    assert told_of(lambda texts, max_words: clip_tokenize(texts, max_words)) is None


def test_how_long_a_text_is(vocabulary: Path) -> None:
    kept = tokens(told_of(pieces(vocabulary)) or {})
    assert kept.cut("a man plays", 9) == ""
    assert kept.cut("a man plays", 4) == "6 tokens, of which the first 4 are read"
    assert kept.cut("a! man. " * 4, 99) == "8 words, of which the first 6 are read"
    assert kept.cut("", 9) == ""


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("kind", "sentencepiece", "not known here"),
        ("backend", "{}", "cannot be read"),
        ("backend", 3, "cannot be read"),
        ("start", len(PIECES) + 2, "0 to 14"),
        ("padding", -1, "0 to 14"),
        ("end", None, "0 to 14"),
        ("caption_words", "6", "1 to"),
    ],
)
def test_what_is_no_tokenizer(key: str, value: object, told: str, vocabulary: Path) -> None:
    with pytest.raises(ValueError, match=told):
        tokens({**(told_of(pieces(vocabulary)) or {}), key: value})


@pytest.mark.parametrize("vocabulary", [513, 49_409, "600", None])
def test_what_is_no_tokenizer_of_clip(vocabulary: object) -> None:
    with pytest.raises(ValueError, match="514 to 49408"):
        tokens({"kind": "clip", "vocabulary": vocabulary})
