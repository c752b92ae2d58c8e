"""CLIP's byte-pair tokenizer, also with a smaller vocabulary."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl_bench.errors import UsageError

#: tokens of CLIP's tokenizer, and those among them that are single bytes, within a word and at its end
VOCABULARY, _SYMBOLS = 49_408, 512
#: the fewest that it can have: bytes alone, start and end
SMALLEST = _SYMBOLS + 2
#: words whose tokens are remembered
_REMEMBERED = 2**16


def clip_tokenize(captions: Sequence[str], max_words: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    """CLIP's byte-pair tokens: start, the first `max_words - 2` tokens, end; padded with 0.

    Equal to CLIP4Clip and MV-Adapter.

    Args:
        captions: texts.
        max_words: tokens of a row.
        vocabulary: tokens that there are. A smaller one merges fewer pairs of symbols, the most frequent ones first;
            words are then spelled in more pieces.

    Returns:
        ids (M, max_words) long, and mask (M, max_words) bool, True for start, words and end. The mask comes from the
        length: id 0 is both padding and the symbol `!`.

    Raises:
        UsageError: CLIP's tokenizer cannot have so many tokens, or so few.
    """
    tokenizer, of_word = _bpe(vocabulary), _words(vocabulary)
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    rows = []
    for caption in captions:
        words = _cleaned(caption, tokenizer.clean_fn).split(" ")
        tokens = [token for word in words for token in of_word(word)]
        rows.append([start, *tokens[: max_words - 2], end])
    mask = torch.arange(max_words) < torch.tensor([len(row) for row in rows], dtype=torch.long)[:, None]
    ids = torch.zeros(len(captions), max_words, dtype=torch.long)
    ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    return ids, mask


def _cleaned(caption: str, clean: Callable[[str], str]) -> str:
    """Text as the tokenizer cleans it: repaired, without HTML, lower case, with single spaces.

    Repairing takes as long as all the rest, and finds nothing in letters, digits and signs of ASCII.
    """
    if caption.isascii() and caption.isprintable() and "&" not in caption:
        return " ".join(caption.split()).lower()
    return clean(caption)


@cache
def _words(vocabulary: int) -> Callable[[str], tuple[int, ...]]:
    """Tokens of a word, remembered: none reaches beyond a space, and words of captions recur."""
    tokenizer = _bpe(vocabulary)

    @lru_cache(_REMEMBERED)
    def of_word(word: str) -> tuple[int, ...]:
        pieces = (
            "".join(tokenizer.byte_encoder[byte] for byte in part.encode()) for part in tokenizer.pat.findall(word)
        )
        return tuple(tokenizer.encoder[token] for piece in pieces for token in tokenizer.bpe(piece).split(" "))

    return of_word


@cache
def _bpe(vocabulary: int) -> Any:
    import regex

    if not SMALLEST <= vocabulary <= VOCABULARY:
        told = f"{SMALLEST} (bytes alone) to {VOCABULARY}"
        raise UsageError(f"text_cfg.vocab_size {vocabulary}: CLIP's tokenizer has {told} tokens")
    tokenizer = _simple_tokenizer()
    if vocabulary != VOCABULARY:
        merges = vocabulary - SMALLEST
        tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < merges}
        tokenizer.sot_token_id, tokenizer.eot_token_id = vocabulary - 2, vocabulary - 1
        tokenizer.encoder |= {"<start_of_text>": vocabulary - 2, "<end_of_text>": vocabulary - 1}
    # open_clip spells the two special tokens differently from OpenAI; only captions that contain them literally
    # could tell.
    ours, openai = ("<start_of_text>", "<end_of_text>"), ("<|startoftext|>", "<|endoftext|>")
    pattern = tokenizer.pat.pattern
    for old, new in zip(ours, openai, strict=True):
        tokenizer.encoder[new] = tokenizer.encoder.pop(old)
        pattern = pattern.replace(old, new.replace("|", r"\|"))
    tokenizer.cache = {token: token for token in openai}
    tokenizer.pat = regex.compile(pattern, regex.IGNORECASE)
    return tokenizer


def _simple_tokenizer() -> Any:
    """open_clip's; without the rest of it, which takes seconds to import and which not all who have texts need."""
    if "open_clip" in sys.modules:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer()
    package = importlib.util.find_spec("open_clip")
    assert package is not None, "petl_bench requires it"
    assert package.origin is not None, "it is a package of files"
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", Path(package.origin).with_name("tokenizer.py"))
    assert spec is not None, "it is a file of Python"
    assert spec.loader is not None, "it is a file of Python"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
