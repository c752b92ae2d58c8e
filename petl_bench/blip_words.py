"""What BLIP makes of texts: how captions and questions are cleaned, and the rows that its tokeniser gives.

Source: salesforce/BLIP, `data/utils.py` (`pre_caption`, `pre_question`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_SPACES = re.compile(r"\s{2,}")


@dataclass(frozen=True)
class TokenRows:
    """Makes rows of ids of texts.

    Attributes:
        backend: a `tokenizers.Tokenizer`.
        start: id that a row begins with.
        end: id that stands behind a text.
        padding: id of the rest of a row.
    """

    backend: Any
    start: int
    end: int
    padding: int

    def __call__(self, texts: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Start, at most `max_words - 2` pieces, end, padding: ids (M, max_words) long, mask (M, max_words) bool."""
        ids = torch.full((len(texts), max_words), self.padding, dtype=torch.long)
        mask = torch.zeros(len(texts), max_words, dtype=torch.bool)
        for row, text in enumerate(texts):
            # One by one: batches start threads, after which loader processes cannot be forked without a warning.
            pieces = self.backend.encode(text, add_special_tokens=False).ids[: max_words - 2]
            tokens = [self.start, *pieces, self.end]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids, mask


def pre_caption(text: str, max_words: int) -> str:
    """Lower case, punctuation as spaces, runs of white space as one space, at most `max_words` words."""
    text = _SPACES.sub(" ", _PUNCTUATION.sub(" ", text.lower()))
    return _first_words(text.rstrip("\n").strip(" "), max_words)


def pre_question(text: str, max_words: int) -> str:
    """Lower case, punctuation removed, spaces kept but for those at the end, at most `max_words` words."""
    return _first_words(_PUNCTUATION.sub("", text.lower()).rstrip(" "), max_words)


def _first_words(text: str, max_words: int) -> str:
    words = text.split(" ")
    return text if len(words) <= max_words else " ".join(words[:max_words])
