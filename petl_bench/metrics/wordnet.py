"""WordNet 3.0 as NLTK reads it, from files on the user's machine: lemmas of words, and how alike two words are."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from petl_bench.errors import DataError, UsageError

_VERSION = "3.0"
#: of the files that figures of the official example were checked with, those of Debian's wordnet-base 1:3.0-37
CHECKED_SHA256 = "54845e2197ebe631a9c7a69a2f172f06af3896194e0f0702be3d37fbfa01ef1c"
_FILES = tuple(f"{name}.{part}" for part in ("adj", "adv", "noun", "verb") for name in ("data", "index"))
_EXCEPTIONS = ("adj.exc", "adv.exc", "noun.exc", "verb.exc")
#: parts of speech, the first one preferred where a word has equally many senses in several
_PARTS = ("n", "v", "a", "r")
#: NLTK wants to know as many kinds of senses by name, which not every distribution of WordNet has
_KINDS = 45


def usual_folders() -> list[Path]:
    """Where WordNet may lie: as Debian's package `wordnet-base` has it, then as NLTK does."""
    data = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    data += [Path.home() / "nltk_data", *(Path(folder) / "nltk_data" for folder in ("/usr/share", "/usr/local/share"))]
    return [Path("/usr/share/wordnet"), *(folder / "corpora" / "wordnet" for folder in data)]


def has_nltk() -> bool:
    """Whether the extra `wups` is installed."""
    return importlib.util.find_spec("nltk") is not None


def holds_wordnet(folder: Path) -> bool:
    """Whether the files of WordNet are there."""
    return all((folder / name).is_file() for name in (*_FILES, *_EXCEPTIONS))


class WordNet:
    """Words and their senses. Files are read when the first word is looked up, in about two seconds.

    Args:
        folder: with `data.noun`, `index.noun`, `noun.exc` and the others.

    Attributes:
        sha256: of the files.

    Raises:
        UsageError: NLTK is not installed.
        DataError: WordNet is not there, or of another version than 3.0.
    """

    def __init__(self, folder: Path) -> None:
        if not has_nltk():
            raise UsageError("WordNet is read by NLTK, which is not installed: pip install 'petl-bench[wups]'")
        if not holds_wordnet(folder):
            raise DataError(f"{folder}: no WordNet there: data.noun, index.noun, noun.exc and so on (see task.wordnet)")
        self.folder = folder.resolve()
        contents = {name: (folder / name).read_bytes() for name in (*_FILES, *_EXCEPTIONS)}
        if f"WordNet {_VERSION} Copyright".encode() not in contents["data.noun"][:10_000]:
            raise DataError(f"{folder}: WordNet there is not of version {_VERSION}, whose figures are published")
        self.sha256 = hashlib.sha256(b"".join(contents[name] for name in sorted(contents))).hexdigest()
        self._lemma, self._similarity = cache(self._lemma_of), cache(self._similarity_of)

    def lemma(self, word: str) -> str:
        """A word in its basic form: that of the part of speech of which WordNet has most senses.

        A word that WordNet does not know becomes its Porter stem, if that is known, and else stays.
        """
        return self._lemma(word)

    def similarity(self, one: str, other: str) -> float:
        """Wu and Palmer's similarity of the first senses of two words, 0 to 1; 0 where one has none.

        Source: Wu and Palmer (ACL 1994), as NLTK computes it.
        """
        return self._similarity(*sorted((one, other)))

    def _lemma_of(self, word: str) -> str:
        with self._readable():
            senses = {part: len(self._reader.synsets(word, part)) for part in _PARTS}
            part = max(_PARTS, key=senses.__getitem__)  # of equals the first
            lemma = self._reader.morphy(word, part) if senses[part] else None
            if lemma is not None:
                return str(lemma)
            stem = str(self._stemmer.stem(word))
            return stem if self._reader.synsets(stem) else word

    def _similarity_of(self, one: str, other: str) -> float:
        with self._readable():
            first, second = (self._reader.synsets(word)[:1] for word in (one, other))
            return float(first[0].wup_similarity(second[0]) or 0.0) if first and second else 0.0

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Says of files that NLTK stumbles over that they are damaged."""
        try:
            yield
        except Exception as error:  # of any kind, as it trusts its files
            raise DataError(f"{self.folder}: WordNet there is damaged ({type(error).__name__}: {error})") from error

    @property
    def _reader(self) -> Any:
        return _reader_of(self.folder, self.sha256)

    @cached_property
    def _stemmer(self) -> Any:
        from nltk.stem.porter import PorterStemmer

        return PorterStemmer()


@lru_cache(1)
def _reader_of(folder: Path, sha256: str) -> Any:
    """NLTK's reader of files that are these: all evaluations of a process share what it has read."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        """Without what other files than WordNet's are for."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                return io.StringIO("".join(f"{kind:02}\tkind{kind}\t0\n" for kind in range(_KINDS)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """No other version is mapped to this one."""

    if str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))  # NLTK opens nothing elsewhere
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other languages are not there
        return Reader(str(folder), None)


def tokens_of(text: str) -> list[str]:
    """The words of a text as NLTK's `word_tokenize` cuts a sentence: `don't` is `do` and `n't`."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return [str(word) for word in NLTKWordTokenizer().tokenize(text)]
