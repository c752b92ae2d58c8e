"""BERT's WordPiece tokeniser with BLIP's two extra tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from petl_bench.blip_words import TokenRows
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub.answers import cause, from_hub
from petl_bench.storage.untrusted import expanded

#: BLIP's own tokens, in the order in which they follow the vocabulary
DECODE, ENCODE = "[DEC]", "[ENC]"


@dataclass(frozen=True)
class WordPiece:
    """Uncased WordPiece; picklable, since it reads its vocabulary when it is first called.

    Attributes:
        vocabulary: a file with one piece per line (BERT's `vocab.txt`), a folder with a tokeniser, or a hub name.
        clean: applied to captions (or questions) before they are tokenised.
        dec_token: id that [DEC] has in the backbone's embeddings; [ENC] follows it.
        sep_token: id that the backbone takes for the end of a text.
        pad_token: id that the backbone takes for padding.
    """

    vocabulary: str
    clean: Callable[[str], str]
    dec_token: int
    sep_token: int
    pad_token: int

    def __call__(self, captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Cleaned texts as ids (M, max_words) long and mask (M, max_words) bool."""
        return self.encode([self.clean(caption) for caption in captions], max_words)

    def encode(self, texts: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Texts as they are: [CLS], at most `max_words - 2` pieces, [SEP], padding.

        Raises:
            CheckpointError: if the vocabulary cannot be read.
            UsageError: if it is not the one the backbone has embeddings for, or has another end or padding.
        """
        return self.rows()(texts, max_words)

    def rows(self) -> TokenRows:
        """What makes rows of texts that are cleaned.

        Raises:
            CheckpointError: if the vocabulary cannot be read.
            UsageError: if it is not the one the backbone has embeddings for, or has another end or padding.
        """
        tokenizer = self._tokenizer()
        return TokenRows(
            tokenizer.backend_tokenizer, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        )

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of ids (M, N), without special tokens; `don ' t` becomes `don't`, as when the released code ran."""
        tokenizer = self._tokenizer()
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": True}
        return [tokenizer.decode(row, **options) for row in ids.tolist()]

    @property
    def sha256(self) -> str:
        """Of the pieces in the order of their ids, wherever they are read from.

        Raises:
            CheckpointError: if the vocabulary cannot be read.
        """
        return hashlib.sha256(json.dumps(self._pieces()).encode()).hexdigest()

    @property
    def text(self) -> str:
        """As a file with one piece per line, without BLIP's two.

        Raises:
            CheckpointError: if the vocabulary cannot be read.
        """
        return "".join(f"{piece}\n" for piece in self._pieces() if piece not in (DECODE, ENCODE))

    def _pieces(self) -> list[str]:
        """In the order of their ids."""
        pieces = _load(self.vocabulary).get_vocab()
        return sorted(pieces, key=pieces.__getitem__)

    def check(self) -> None:
        """Refuses a vocabulary that is not the backbone's.

        Raises:
            CheckpointError: if the vocabulary cannot be read.
            UsageError: if it is not the one the backbone has embeddings for, or has another end or padding.
        """
        tokenizer = _load(self.vocabulary)
        found = tokenizer.convert_tokens_to_ids([DECODE, ENCODE])
        if found != [self.dec_token, self.dec_token + 1]:
            raise UsageError(
                f"backbone.vocabulary '{self.vocabulary}' has {found[0]} pieces before [DEC], the backbone has "
                f"embeddings for {self.dec_token}: give the vocabulary it was trained with"
            )
        for key, own, theirs in (
            ("sep_token_id", self.sep_token, tokenizer.sep_token_id),
            ("pad_token_id", self.pad_token, tokenizer.pad_token_id),
        ):
            if own != theirs:  # answers would never end, or padding be read
                raise UsageError(
                    f"text_config.{key} of backbone.architecture is {own}, but the vocabulary '{self.vocabulary}' says "
                    f"{theirs}: set it to {theirs} there (transformers takes 102 and 0 where nothing is given)"
                )

    def _tokenizer(self) -> Any:
        self.check()
        return _load(self.vocabulary)


@cache
def _load(vocabulary: str) -> Any:
    """A BertTokenizer with BLIP's tokens."""
    from transformers import BertTokenizer

    path = expanded(vocabulary)
    try:
        if path.is_dir():
            tokenizer = BertTokenizer.from_pretrained(str(path))
        else:
            pieces = (path if path.is_file() else _from_hub(vocabulary)).read_text(encoding="utf-8").splitlines()
            tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    except Exception as error:  # whatever the file, the hub client or the network raises: one line for the user
        raise CheckpointError(
            f"vocabulary '{vocabulary}' cannot be read, or is not in the local cache and could not be downloaded "
            f"({error if isinstance(error, CheckpointError) else cause(error)}): give BERT's vocab.txt as "
            "backbone.vocabulary"
        ) from error
    tokenizer.add_tokens([DECODE, ENCODE], special_tokens=True)
    return tokenizer


def _from_hub(name: str) -> Path:
    """`vocab.txt` of a hub repository."""
    from huggingface_hub import hf_hub_download

    return Path(from_hub(partial(hf_hub_download, name, "vocab.txt"), name))
