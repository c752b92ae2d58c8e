"""`petl-bench data describe`: what the annotation files of a dataset hold, as JSON."""

from __future__ import annotations

import argparse
import json

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.describe import describe
from petl_bench.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command: none of its own."""


def run(data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Prints the description; fails if a split is not whole, after printing what is there.

    Raises:
        DataError: for splits that cannot be read or do not have what the protocol expects.
    """
    described = describe(data)
    print(json.dumps(described, indent=2, ensure_ascii=False))
    wrong = {name: split["error"] for name, split in described["splits"].items() if "error" in split}
    if wrong:
        raise DataError("; ".join(f"{name}: {message}" for name, message in wrong.items()))
    return 0
