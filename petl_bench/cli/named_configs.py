"""Packaged configurations by bare name: `msrvtt_adaptformer.yaml`, with or without its suffix.

Those of a plug-in, in the folder `configs` beside it, have bare names, too, once it was imported.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from petl_bench.errors import UsageError
from petl_bench.registry import config_folders
from petl_bench.renamed import CONFIGURATIONS
from petl_bench.storage import untrusted
from petl_bench.storage.untrusted import expanded, is_file, shown

#: names that a file with a configuration has
SUFFIXES = (".yaml", ".yml", ".json")
#: more than any configuration has, and read in an instant
MAX_BYTES = 1_000_000


def config_folder() -> Path:
    """Where the packaged YAML files are: in an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "data").is_dir():
            return folder
    raise UsageError(f"no configurations in or beside {package}: the installation is incomplete")


def list_configs() -> list[str]:
    """Names of all packaged configurations, fragments in sub-folders included, sorted."""
    folder = config_folder()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))


def plugin_configs() -> dict[str, Path]:
    """The configurations of plug-ins by name, fragments in sub-folders included; the first of a name counts."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(str(path.relative_to(folder)), path)
    return found


def summary_of(path: Path) -> str:
    """What the first comment of a configuration says before its recipe: dataset, backbone, method."""
    line = read_text(path).split("\n", 1)[0]
    line = line if line.startswith("#") else ""
    return ". ".join(line.lstrip("# ").rstrip(".").split(". ")[:2])


def find_config(name: str) -> Path:
    """The file a `--config` value means: an existing file, or a packaged one.

    Raises:
        UsageError: if there is neither; it suggests close names.
    """
    path = found_config(name)
    if path is not None:
        return path
    if gone := _instead_of(name):
        raise UsageError(f"configuration {name} is gone: {gone}")
    close = get_close_matches(name, [*list_configs(), *plugin_configs()], 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`petl-bench list configs` shows the packaged ones"
    raise UsageError(f"no file and no packaged configuration {shown(name, 200)}: {hint}")


def found_config(name: str) -> Path | None:
    """The file a `--config` value means; None if there is none."""
    folders = (config_folder(), *config_folders())
    named = (folder / file for folder in folders for file in (name, f"{name}.yaml"))
    return next((path for path in (expanded(name), *named) if is_file(path)), None)


def find_fragment(name: str, folder: Path) -> Path:
    """The file that a configuration in `folder` includes by `name`: beside it, packaged, a plug-in's, or where we are.

    Raises:
        UsageError: if there is none; it suggests close names.
    """
    own = expanded(name)
    folders = (folder, config_folder(), *config_folders())
    found = next((path for path in (*(folder / own for folder in folders), own) if is_file(path)), None)
    if found is not None:
        return found
    if gone := _instead_of(name):
        raise UsageError(f"{name} is gone: {gone}")
    known = [fragment for fragment in (*list_configs(), *plugin_configs()) if os.sep in fragment]
    close = get_close_matches(name, known, 3)
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    raise UsageError(f"no file {shown(name, 200)} in {folder.resolve()}, and no packaged one of that name{hint}")


def _instead_of(name: str) -> str | None:
    """What there is instead of a packaged configuration of earlier versions."""
    return CONFIGURATIONS.get(f"{name.removesuffix('.yaml')}.yaml")


def read_text(path: Path) -> str:
    """The text of a configuration.

    Raises:
        UsageError: if it is too large for one, or cannot be read.
    """
    try:
        size = path.stat().st_size if is_file(path) else 0
        if size > MAX_BYTES:
            raise UsageError(f"{path} ({size:,} bytes) is too large for a configuration: is it a file of data?")
        return untrusted.read_text(path)
    except untrusted.UnreadableError as error:
        raise UsageError(f"cannot read configuration {path}: {error}") from error
