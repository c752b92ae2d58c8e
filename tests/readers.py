"""The readers of videos, as parameters of tests."""

from __future__ import annotations

import pytest

from petl_bench.data.video import READERS

#: by name; torchcodec's where it is
EVERY_READER = [
    pytest.param(name, marks=pytest.mark.needs_torchcodec) if name == "torchcodec" else name for name in READERS
]
