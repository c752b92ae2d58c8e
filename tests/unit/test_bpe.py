"""CLIP's tokens, made word by word and remembered, against the tokenizer of open_clip on whole texts."""

import random

import pytest
import torch

from petl_bench.bpe import SMALLEST, VOCABULARY, _bpe, clip_tokenize

ODD = [
    "",
    " ",
    "!",
    "a man  plays\tthe guitar\nin the   rain ",
    "it's they'll DON'T I'D we've 're 's's ''s rock'n'roll",
    "tom &amp; jerry &lt;3 &amp;amp; AT&T &copy &#39;quoted&#39; &",
    "<b>bold</b> <|startoftext|> a <|endoftext|><|endoftext|>x <start_of_text> <|StartOfText|>",
    "3d 2x4 1,000.50 $5 50% #1 a1b2",
    "...!!! ??? -- a-b_c/d\\e (f) [g] {h} ~`^|",
    "cafe\u0301 caf\u00e9 na\u00efve \u00fcber stra\u00dfe \u0130stanbul \u039f\u0394\u039f\u03a3",
    "\u201ccurly\u201d \u2018quotes\u2019 \ufb01sh \uff46\uff55\uff4c\uff4c width \u2026",
    "sch\u00c3\u00b6n â€œmojibakeâ€\x9d \u00e2\u20ac\u2122s",
    "\u4e2d\u6587 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u0661\u0662 \u00bd \u00b2",
    "non\u00a0breaking \u2003em \u3000wide \u200bzero\u200b\ufeffbom",
    "control \x00\x01\x07 \x1b[31mred\x1b[0m \x7f \x0b\x0c \x1c\x1d\x1e\x1f \x85 end",
    "cr\r\nlf \r \u2028line\u2029",
    "a" * 300,
    " ".join(["word"] * 200),
]


def assert_plain(captions: list[str], vocabulary: int = VOCABULARY) -> None:
    tokenizer = _bpe(vocabulary)
    for length in (2, 3, 20, 400):
        ids, mask = clip_tokenize(captions, length, vocabulary)
        assert ids.dtype == torch.long
        assert mask.dtype == torch.bool
        assert ids.shape == mask.shape == (len(captions), length)
        for row, caption in enumerate(captions):
            words = tokenizer.encode(caption)[: length - 2]
            tokens = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id]
            assert ids[row].tolist() == tokens + [0] * (length - len(tokens)), caption
            assert mask[row].tolist() == [place < len(tokens) for place in range(length)], caption


@pytest.mark.parametrize("vocabulary", [SMALLEST, 2000, VOCABULARY])
def test_odd_texts(vocabulary: int) -> None:
    assert_plain(ODD, vocabulary)
    assert_plain(ODD[::-1], vocabulary)  # remembered now


@pytest.mark.parametrize("seed", range(4))
def test_texts_of_odd_characters(seed: int) -> None:
    chosen = random.Random(seed)
    common = "abcXYZ019 '&;<>|!?.,-_#\t\n\r\x00\x1b\x1f\x7f\x85\xa0"
    rare = [chr(chosen.choice([*range(0x80, 0x3000), *range(0x1F300, 0x1F700)])) for _ in range(40)]
    pieces = [*common, *rare, "'s", "&amp;", "&#x27;", "the ", "guitar ", "<|endoftext|>"]
    assert_plain(["".join(chosen.choices(pieces, k=chosen.randint(0, 30))) for _ in range(400)])


def test_no_texts_have_no_rows() -> None:
    ids, mask = clip_tokenize([], 20)
    assert ids.shape == mask.shape == (0, 20)
