"""`petl-bench data describe`: what the annotation files of a dataset hold, as JSON."""

from __future__ import annotations

import argparse
import json
import sys

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.describe import describe
from petl_bench.errors import DataError, MissingFileError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command: none of its own."""


def run(data: VideoTextDataModule, options: argparse.Namespace) -> int:
    """Prints the description; fails if a split cannot be read, after printing what is there.

    Files that are not there, or are cut, fail nothing here (`fit` refuses them): what is there is counted, and a
    warning says what lacks.

    Raises:
        DataError: for splits that cannot be read or have more than the protocol expects, or if nothing is there.
    """
    described = describe(data)
    print(json.dumps(described, indent=2, ensure_ascii=False))
    wrong = {name: split["error"] for name, split in described["splits"].items() if "error" in split}
    if wrong:
        raise DataError("; ".join(f"{name}: {message}" for name, message in wrong.items()))
    absent = {name: split["missing"] for name, split in described["splits"].items() if "missing" in split}
    told = "; ".join(f"{name}: {message}" for name, message in absent.items())
    if absent and not any(split.get("videos") for split in described["splits"].values()):
        raise MissingFileError(told)
    if absent:
        print(f"warning: {', '.join(absent)}: annotation files are not there, see 'missing'", file=sys.stderr)
    if parts := [name for name, split in described["splits"].items() if "partial" in split]:
        print(f"warning: {', '.join(parts)}: less than the protocol has, see 'partial'", file=sys.stderr)
    return 0
