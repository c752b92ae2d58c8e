"""What some tests need and not every machine has: the only ground on which CI lets a test be skipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple


class Need(NamedTuple):
    """Something that a marked test cannot do without.

    Attributes:
        what: in words.
        is_here: whether this machine has it; asked only for tests that are marked.
    """

    what: str
    is_here: Callable[[], bool]


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _chromium() -> bool:
    from tests.browser import executable

    return executable() is not None


def _wordnet() -> bool:
    from petl_bench.metrics.wordnet import holds_wordnet, usual_folders

    return any(map(holds_wordnet, usual_folders()))


def _torchcodec() -> bool:
    from petl_bench.data.video import torchcodec
    from petl_bench.errors import UsageError

    try:
        torchcodec()
    except UsageError:
        return False
    return True


def _root() -> bool:
    return os.geteuid() == 0


#: by marker; what pip alone can install is no need but a part of the extra `ci`
NEEDS = {
    "needs_cuda": Need("an NVIDIA GPU", _cuda),
    "needs_chromium": Need("Chromium, which .ci/run installs", _chromium),
    "needs_torchcodec": Need("torchcodec with FFmpeg's libraries, of which its wheel has none", _torchcodec),
    "needs_wordnet": Need("WordNet 3.0 (Debian's wordnet-base), which .ci/run installs", _wordnet),
    "needs_root": Need("root, to become other users", _root),
}
