"""What the YAML beside a data module says of its dataset: licence, files, counts, what is often wrong."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from petl_bench.errors import UsageError
from petl_bench.registry import FOLDERS, Entry, location
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import UnreadableError, read_text

#: what a description may say, in the order in which it is printed
KEYS = ("licence", "files", "clips", "counts", "often_wrong")


def described(entry: Entry) -> dict[str, Any]:
    """What is known of a dataset; its `name` and `summary` alone where nothing lies beside its module.

    Raises:
        UsageError: the description cannot be read, or says what no description says.
    """
    about = {"name": entry.name, "summary": entry.summary}
    path = _file(entry.module)
    if path is None or not path.is_file():
        return about
    try:
        found = parse_yaml(read_text(path), str(path))
    except UnreadableError as error:
        raise UsageError(f"{path}: {error}") from error
    own = found.get(entry.name, {}) if isinstance(found, dict) else None
    if not isinstance(own, dict) or own.keys() - set(KEYS):
        raise UsageError(f"{path}: {entry.name} must say some of {', '.join(KEYS)}, and nothing else")
    return about | {key: own[key] for key in KEYS if key in own}


def _file(module: str) -> Path | None:
    """The description beside a module."""
    folder, _, rest = module.partition(".")
    if folder in FOLDERS:
        return location(folder).joinpath(*rest.split(".")).with_suffix(".yaml")
    spec = find_spec(module)
    return None if spec is None or not spec.origin else Path(spec.origin).with_suffix(".yaml")
