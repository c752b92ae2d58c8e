"""Adapters of the Hugging Face Hub: the manifest that `petl-bench push` writes, and files that are what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from petl_bench.errors import CheckpointError
from petl_bench.hub.names import HubName, hub_name
from petl_bench.hub.snapshots import snapshot, tell
from petl_bench.runs.record import ADAPTER_NAME, CONFIG_NAME, FILE_NAME, RANKS_NAME
from petl_bench.storage.files import FileError, file_sha256
from petl_bench.storage.untrusted import UnreadableError, expanded, is_file, parse_json, read_text, shown

MANIFEST_NAME = "petl_bench.json"
FORMAT = "petl_bench.hub/1"
#: what a manifest may name, and what of that is fetched for a model
SHARED = (ADAPTER_NAME, CONFIG_NAME, FILE_NAME, RANKS_NAME)
_FETCHED = (ADAPTER_NAME, CONFIG_NAME, FILE_NAME)
#: bytes of a manifest
_MOST = 100_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Manifest(NamedTuple):
    """What `petl-bench push` says of a repository.

    Attributes:
        run: id of the run that is shared.
        files: SHA-256 by name.
        changed: by name, how a file differs from the run's own.
        card: SHA-256 of the card as it was written, which people may edit afterwards.
    """

    run: str
    files: dict[str, str]
    changed: dict[str, str]
    card: str

    def text(self) -> str:
        """As the file has it."""
        return json.dumps({"format": FORMAT, **self._asdict()}, indent=2, sort_keys=True) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest of a repository.

    Raises:
        CheckpointError: it is damaged, names other places, or is of a later version.
    """
    try:
        said = parse_json(read_text(path, _MOST))
    except UnreadableError as error:
        raise CheckpointError(f"{MANIFEST_NAME} cannot be read: {error}") from error
    found = said.get("format") if isinstance(said, dict) else None
    if found != FORMAT:
        later = isinstance(found, str) and found.startswith(FORMAT.rpartition("/")[0])
        raise CheckpointError(f"{MANIFEST_NAME} is of format {shown(found)}, not {FORMAT}{': update' * later}")
    files = said.get("files")
    if not isinstance(files, dict) or not all(_SHA256.fullmatch(str(digest)) for digest in files.values()):
        raise CheckpointError(f"{MANIFEST_NAME} is damaged: files are no SHA-256 by name")
    if foreign := next((name for name in files if name not in SHARED), None):
        raise CheckpointError(f"{MANIFEST_NAME} names {shown(foreign)}: it may name {', '.join(SHARED)}")
    run, changed, card = said.get("run"), said.get("changed"), said.get("card")
    if not (isinstance(run, str) and isinstance(changed, dict) and isinstance(card, str)):
        raise CheckpointError(f"{MANIFEST_NAME} is damaged: it does not say what run it is of")
    return Manifest(run, files, changed, card)


def local_adapter(source: str | Path) -> Path:
    """The file of an adapter: a path of this machine as it is, one of the Hub in the local cache.

    Raises:
        CheckpointError: there is none of that name on the Hub, or it is damaged.
        UsageError: that is no name of a repository.
    """
    name = hub_name(source)
    return expanded(source) if name is None else pulled(name)[0]


def pinned(source: str) -> str:
    """An adapter of the Hub with its commit; any other as it is.

    Raises:
        CheckpointError: as of `local_adapter`.
        UsageError: as of `local_adapter`.
    """
    name = hub_name(source)
    return source if name is None else str(pulled(name)[1])


def pulled(name: HubName) -> tuple[Path, HubName]:
    """The adapter of a repository, fetched and checked, and its name with the commit; that is told where it is new.

    Raises:
        CheckpointError: it is not there, or a file is not the one that the manifest says.
    """
    folder, at = snapshot(name, [MANIFEST_NAME], _FETCHED)
    try:
        _require_whole(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{at}: {error}") from error
    if not name.is_pinned:
        tell(f"{name} is commit {at.revision}")
    return folder / ADAPTER_NAME, at


def _require_whole(folder: Path) -> None:
    """Refuses files that are not what the manifest says; those that it does not name are not looked at."""
    digests = read_manifest(folder / MANIFEST_NAME).files
    if ADAPTER_NAME not in digests:
        raise CheckpointError(f"{MANIFEST_NAME} names no {ADAPTER_NAME}")
    for name in _FETCHED:
        if name not in digests:
            if is_file(folder / name):
                raise CheckpointError(f"{name} is not named in {MANIFEST_NAME}: it is not what was shared")
            continue
        if not is_file(folder / name):
            raise CheckpointError(f"{name} is named in {MANIFEST_NAME}, and is missing")
        try:
            found = file_sha256(folder / name)
        except FileError as error:
            raise CheckpointError(f"{name} {error.reason}") from error
        if found != digests[name]:
            raise CheckpointError(
                f"{name} has sha256 {found}, not {digests[name]} as {MANIFEST_NAME} says: it was changed after it was "
                "shared"
            )
