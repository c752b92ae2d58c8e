"""Refuses values that the types of options let pass: null where none is taken, text that no file can be called by."""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import PurePath
from types import NoneType
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer

from petl_bench.errors import UsageError
from petl_bench.ranges import constructor_hints

#: letters of the longest path that Linux takes; nothing else that a configuration holds is as long
LONGEST = 4096
#: options of commands that a null would leave without a meaning
_NEEDED = (
    *("seed_everything", "runs_dir", "overwrite", "allow_change", "collective_timeout", "zero_shot", "best_on_val"),
    *("record_words", "model", "data"),
)
#: linked from elsewhere
_LINKED = ("spec", "seed")


def require_possible(options: Namespace) -> None:
    """Looks at every value of a parsed configuration.

    jsonargparse takes a null for "not given" and hands it to whatever constructor asks for a number.

    Raises:
        UsageError: naming the option.
    """
    for name in _NEEDED:
        if options.get(name) is None:
            raise UsageError(f"{name} is null: give a value, or leave it out")
    _require_not_null(options.trainer, Trainer, "trainer")
    _require_nested(options, "")
    for name, text in _texts(options, ""):
        _require_text(name, text)


def _require_nested(value: Any, path: str) -> None:
    """Looks at the arguments of every class below a value."""
    if isinstance(value, list):
        for item in value:
            _require_nested(item, path)
        return
    if not isinstance(value, Namespace):
        return
    if "class_path" in value:
        module, _, name = value.class_path.rpartition(".")
        arguments, path = value.get("init_args") or Namespace(), f"{path}.init_args"
        _require_not_null(arguments, getattr(import_module(module), name), path)
        value = arguments
    for name, item in vars(value).items():
        _require_nested(item, f"{path}.{name}".removeprefix("."))


def _require_not_null(arguments: Namespace, kind: Any, path: str) -> None:
    hints = constructor_hints(kind)
    for name, value in vars(arguments).items():
        hint = hints.get(name)
        if value is None and name not in _LINKED and hint is not None and not _takes_null(hint):
            raise UsageError(f"{path}.{name} is null: give a value, or leave it out")


def _takes_null(hint: Any) -> bool:
    return hint in (None, NoneType, Any) or any(map(_takes_null, typing.get_args(hint)))


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Names and values of all options that are text or paths."""
    if isinstance(value, (str, PurePath)):
        yield path, str(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item, path)
    elif isinstance(value, (dict, Namespace)):
        for name, item in (value if isinstance(value, dict) else vars(value)).items():
            yield from _texts(item, f"{path}.{name}".removeprefix("."))


def _require_text(name: str, text: str) -> None:
    if "\0" in text:
        raise UsageError(f"{name} holds a NUL character, which no file name and no text can")
    try:
        length = len(os.fsencode(text))
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        raise UsageError(f"{name} holds letters that no file name has here ({encoding}): {error.reason}") from error
    if length > LONGEST:
        raise UsageError(f"{name} has {length} letters: no path is longer than {LONGEST}")
