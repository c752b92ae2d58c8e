"""Tokenizers as plain values, which an index keeps beside the text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from petl_bench.blip_words import TokenRows, pre_caption
from petl_bench.bpe import SMALLEST, VOCABULARY, clip_tokenize

#: that some ids have
ROLES = ("start", "end", "padding")


class Tokens(Protocol):
    """Makes a row of tokens of a text."""

    def __call__(self, text: str, max_words: int) -> tuple[Tensor, Tensor]:
        """Ids (1, max_words) long, and mask (1, max_words) bool."""
        ...

    def cut(self, text: str, max_words: int) -> str:
        """Of a text that is longer than what is read of it, how long it is; else nothing."""
        ...


@dataclass(frozen=True)
class BytePairs:
    """CLIP's.

    Attributes:
        vocabulary: entries that are known.
    """

    vocabulary: int

    def __call__(self, text: str, max_words: int) -> tuple[Tensor, Tensor]:
        return clip_tokenize([text], max_words, self.vocabulary)

    def cut(self, text: str, max_words: int) -> str:
        return _cut(self, text, max_words)


@dataclass(frozen=True)
class Pieces:
    """BLIP's.

    Attributes:
        rows: of texts that are cleaned.
        caption_words: that are kept of a text.
    """

    rows: TokenRows
    caption_words: int

    def __call__(self, text: str, max_words: int) -> tuple[Tensor, Tensor]:
        return self.rows([pre_caption(text, self.caption_words)], max_words)

    def cut(self, text: str, max_words: int) -> str:
        words = pre_caption(text, len(text) + 1).count(" ") + 1
        if words > self.caption_words:
            return f"{words} words, of which the first {self.caption_words} are read"
        return _cut(self, text, max_words)


def tokens(told: Mapping[str, Any]) -> Tokens:
    """A tokenizer from plain values, as `petl_bench.search.tracing` writes them.

    Raises:
        ValueError: they describe none.
    """
    if told.get("kind") == "clip" and told.keys() == {"kind", "vocabulary"}:
        return BytePairs(_number(told["vocabulary"], SMALLEST, VOCABULARY))
    if told.get("kind") != "wordpiece":
        raise ValueError(f"a tokenizer that is not known here, {str(told.get('kind'))[:50]!r}")
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_str(told["backend"])
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(f"a tokenizer that cannot be read ({str(error)[:100]})") from error
    start, end, padding = (_number(told.get(name), 0, backend.get_vocab_size() - 1) for name in ROLES)
    return Pieces(TokenRows(backend, start, end, padding), _number(told.get("caption_words"), 1, VOCABULARY))


def _number(value: Any, least: int, most: int) -> int:
    if isinstance(value, int) and least <= value <= most:
        return value
    raise ValueError(f"a tokenizer with {str(value)[:50]} where {least} to {most} can be")


def _cut(tokens: Tokens, text: str, max_words: int) -> str:
    length = int(tokens(text, len(text.encode()) + 2)[1].sum())
    return f"{length} tokens, of which the first {max_words} are read" if length > max_words else ""
