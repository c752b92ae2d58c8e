"""Packaged configurations by bare name: `msrvtt_adaptformer.yaml`, with or without its suffix."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from petl_bench.errors import UsageError

#: names that a file with a configuration has
SUFFIXES = (".yaml", ".yml", ".json")
#: more than any configuration has, and read in an instant
MAX_BYTES = 1_000_000


def config_folder() -> Path:
    """Where the packaged YAML files are: in an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UsageError(f"no configs folder in or beside {package}: the installation is incomplete")


def list_configs() -> list[str]:
    """Names of all packaged configurations, fragments in sub-folders included, sorted."""
    folder = config_folder()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))


def summary_of(name: str) -> str:
    """What the first comment of a packaged configuration says before its recipe: dataset, backbone, method."""
    line = (config_folder() / name).read_text(encoding="utf-8").split("\n", 1)[0]
    return ". ".join(line.lstrip("# ").rstrip(".").split(". ")[:2])


def find_config(name: str) -> Path:
    """The file a `--config` value means: an existing file, or a packaged one.

    Raises:
        UsageError: if there is neither; it suggests close names.
    """
    own = Path(name).expanduser()
    if is_file(own):
        return own
    folder = config_folder()
    for packaged in (folder / name, folder / f"{name}.yaml"):
        if is_file(packaged):
            return packaged
    close = get_close_matches(name, list_configs(), 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`petl-bench list configs` shows the packaged ones"
    raise UsageError(f"no file and no packaged configuration '{name}': {hint}")


def find_fragment(name: str, folder: Path) -> Path:
    """The file that a configuration in `folder` includes by `name`: beside it, packaged, or in the current folder.

    Raises:
        UsageError: if there is none; it suggests close names.
    """
    own = Path(name).expanduser()
    found = next((path for path in (folder / own, config_folder() / own, own) if is_file(path)), None)
    if found is not None:
        return found
    close = get_close_matches(name, [fragment for fragment in list_configs() if os.sep in fragment], 3)
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    raise UsageError(f"no file '{name}' in {folder.resolve()}, and no packaged one of that name{hint}")


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that is too long for one is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_text(path: Path) -> str:
    """The text of a configuration.

    Raises:
        UsageError: if it is too large for one, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(f"{path} ({size:,} bytes) is too large for a configuration: is it a file of data?")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read configuration {path}: {getattr(error, 'strerror', None) or error}") from error
