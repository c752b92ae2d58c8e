"""Which files have not changed since the last report, so that nothing is read, hashed or written twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import petl_bench
from petl_bench.cli.named_configs import config_folder
from petl_bench.machine.resources import exhausted
from petl_bench.report.kept import FOLDER, Kept
from petl_bench.runs.record import ADAPTER_NAME, CONFIG_NAME, METRICS_NAME, RANKS_NAME
from petl_bench.storage.files import FileError, file_sha256

#: seconds before it was read in which a file must not have changed: clocks of file systems are that coarse
_COARSE = 2
#: beside a record, which has their digests; of an adapter a report shows that it is there, in the command of its test
_IN_RECORD = (ADAPTER_NAME, CONFIG_NAME, RANKS_NAME)
#: what else decides the bytes of a report
_LIBRARIES = ("jinja2", "markupsafe", "matplotlib", "numpy")


class Digests:
    """SHA-256 of files, each read once as long as its size, times and inode stay.

    A file that changed within two seconds of being read is read again: its times may not tell of another change.

    Args:
        folder: where to keep them; None: nowhere.
        name: of the file that holds them.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._kept = Kept(folder, name, "1")

    def of(self, path: Path) -> str:
        """The digest of a file's bytes.

        Raises:
            ResourceError: this machine has no more files to open, or the storage does not answer.
            FileError: the file cannot be read.
        """
        began = time.time_ns()
        try:
            found = path.stat()
        except OSError as error:
            raise exhausted(error, path) or FileError(path, f"cannot be read: {error.strerror}") from error
        # A user can set the time of modification (`cp -p`, `touch -r`), but not that of change.
        stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
        known = self._kept.pop(str(path), None)
        if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str):
            self._kept[str(path)] = known
            return known[-1]
        digest = file_sha256(path)
        if max(found.st_mtime_ns, found.st_ctime_ns) < began - _COARSE * 10**9:
            self._kept[str(path)] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Keeps the digests of the files that were asked for."""
        self._kept.save()


def fingerprint(
    runs: Iterable[tuple[Path, Mapping[str, Any]]],
    rejected: Iterable[tuple[Path, str]],
    thumbnails: Path | None,
    cache: Path | None,
    others: Iterable[tuple[Any, ...]] = (),
) -> str:
    """A digest of all that a report is made from: runs and what lies beside them, code and libraries.

    Args:
        runs: path and record of each that `collect` let pass: files beside it have the digests that the record says.
        rejected: path and reason of each.
        thumbnails: folder of clips.
        cache: folder of the report's cache.
        others: figures that stand in tables of their own.

    Raises:
        FileError: a file cannot be read.
    """
    digests, runs = Digests(cache, "inputs"), [*runs]
    curves = [path.with_name(METRICS_NAME) for path, _ in runs]
    about = {
        "runs": runs,
        "beside": [[path.with_name(name).is_file() for name in _IN_RECORD] for path, _ in runs],
        "curves": [digests.of(path) if path.is_file() else None for path in curves],
        "rejected": [*rejected],
        "others": [*others],
        "thumbnails": thumbnails,
        "code": _code(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }
    digests.save()
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def unchanged(output: Path, fingerprint: str) -> bool:
    """Whether a folder holds what was written for this very input, byte for byte; see `remember`."""
    found = _outputs(output).get(fingerprint)
    if not isinstance(found, dict):
        return False
    try:
        return all(file_sha256(output / name) == digest for name, digest in found.items())
    except (FileError, ValueError):  # or no name of a file
        return False


def remember(output: Path, fingerprint: str, files: Iterable[Path]) -> None:
    """Notes what was written into a folder, and for which input.

    Args:
        output: the folder.
        fingerprint: of the input.
        files: all that were written, below the folder.

    Raises:
        FileError: a file cannot be read.
    """
    outputs = _outputs(output)
    outputs[fingerprint] = {path.relative_to(output).as_posix(): file_sha256(path) for path in files}
    outputs.save()


def _outputs(output: Path) -> Kept:
    return Kept(output / FOLDER, "outputs", "1")


@cache
def _code() -> str:
    """A digest of this package and its configurations, whatever its version says: somebody may be working on them."""
    found = hashlib.sha256(petl_bench.__version__.encode())
    for root in (Path(petl_bench.__file__).parent, config_folder()):
        for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            found.update(f"\0{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
