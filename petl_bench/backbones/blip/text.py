"""How BLIP cleans captions and questions before they are tokenised.

Source: salesforce/BLIP, `data/utils.py` (`pre_caption`, `pre_question`).
"""

import re

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_SPACES = re.compile(r"\s{2,}")


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
