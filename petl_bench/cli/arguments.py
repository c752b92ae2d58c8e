"""What the commands that argparse reads have in common; light enough for those that answer without torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from petl_bench.storage.untrusted import shown

#: bytes of the longest path, and of the longest name in one, that Linux takes
_LONGEST_PATH, _LONGEST_NAME = 4096, 255


class Parser(argparse.ArgumentParser):
    """A parser whose messages are short, whatever was given."""

    def error(self, message: str) -> NoReturn:
        super().error(message if len(message) <= 500 else f"{message[:497]}...")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which model is used: `adapter`, `weights`."""
    parser.add_argument(
        "--adapter",
        required=True,
        help="adapter.safetensors, the folder of its run, hf-hub:owner/name[@revision], or a configuration's name",
    )
    parser.add_argument("--weights", type=possible_path, metavar="PATH", help="of the backbone, if they are elsewhere")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which model is used, and where: `adapter`, `weights`, `device`."""
    add_source_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (a GPU if there is one)")


def possible_path(text: str) -> Path:
    """What argparse calls for an option that is a path.

    Raises:
        argparse.ArgumentTypeError: nothing can be called so.
    """
    try:
        names = os.fsencode(text).split(b"/")
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"no path has such letters here: {error.reason}") from error
    if "\0" in text:
        raise argparse.ArgumentTypeError("no path holds a NUL character")
    if len(os.fsencode(text)) > _LONGEST_PATH or max(map(len, names)) > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"no path is as long as {shown(text)}, of {len(text)} letters")
    return Path(text)
