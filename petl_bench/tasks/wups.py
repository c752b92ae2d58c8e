"""Where WUPS finds what it needs: NLTK, WordNet, and the stop words of the dataset."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.errors import DataError
from petl_bench.metrics.wordnet import CHECKED_SHA256, WordNet, has_nltk, holds_wordnet, usual_folders
from petl_bench.metrics.wups import WUPS
from petl_bench.storage.untrusted import UnreadableError, expanded, is_file, read_text

#: as the repository of NExT-OE has it
_STOP_WORDS = "stopwords.txt"


def find_wups(wordnet: Path | None, root: Path | None) -> WUPS | None:
    """The score, or None where this machine lacks what it needs, which is said.

    Args:
        wordnet: folder of WordNet 3.0; None looks where it usually lies.
        root: folder of the dataset, where the stop words are; None is the current one.

    Raises:
        UsageError: a folder is given, and NLTK is not installed.
        DataError: WordNet is not in the folder that is given, or is of another version; stop words cannot be read.
    """
    folder = expanded(wordnet) if wordnet else next(filter(holds_wordnet, usual_folders()), None)
    words = expanded(root or Path()) / _STOP_WORDS
    lacking = [
        *(() if has_nltk() or wordnet else ("NLTK (pip install 'petl-bench[wups]')",)),
        *(() if folder else ("WordNet 3.0 (Debian: wordnet-base; or set task.wordnet to its folder)",)),
        *(() if is_file(words) else (f"{words} (of github.com/doc-doc/NExT-OE)",)),
    ]
    if lacking or folder is None:
        rank_zero_warn(f"no WUPS, exact match only: there is no {', no '.join(lacking)}")
        return None
    found = WordNet(folder)
    if found.sha256 != CHECKED_SHA256:
        rank_zero_warn(f"{folder}: other files than those of Debian's wordnet-base 3.0-37, by which WUPS was checked")
    try:
        return WUPS(found, read_text(words).split())
    except UnreadableError as error:
        raise DataError(f"cannot read the stop words {words}: {error}") from error
