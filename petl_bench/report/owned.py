"""A folder of files that reports write: what would not change stays, what is gone goes, what is foreign is left."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from petl_bench.storage.files import FileError, known_sha256, write_atomically, write_bytes_atomically
from petl_bench.storage.untrusted import UnreadableError, parse_json, read_text

#: what a report wrote into a folder, and from what
MANIFEST = ".written.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*\.(html|svg|png|tex)")


class OwnedFolder:
    """Files of one kind, written in one go; `close` ends it.

    Args:
        path: the folder; made with the first file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = _manifest(path)
        self._now: dict[str, tuple[str, str]] = {}

    def put(self, name: str, made_of: str | None, make: Callable[[], bytes]) -> None:
        """A file of the folder, made only if its input is another than last time, or somebody changed it.

        Args:
            name: of the file.
            made_of: a digest of its input; None where only making it tells.
            make: makes its content.

        Raises:
            FileError: it cannot be written.
        """
        known = self._before.get(name)
        if known is None or made_of is None or known[0] != made_of or known_sha256(self.path / name) != known[1]:
            content = make()
            known = (made_of or "", hashlib.sha256(content).hexdigest())
            if known_sha256(self.path / name) != known[1]:
                make_folder(self.path)
                write_bytes_atomically(self.path / name, content)
        self._now[name] = known

    def close(self) -> list[Path]:
        """Removes what an earlier report wrote and this one did not.

        Returns:
            The files that are there now.

        Raises:
            FileError: the list of files cannot be written.
        """
        for name in self._before.keys() - self._now.keys():
            with suppress(OSError):
                (self.path / name).unlink()
        manifest = self.path / MANIFEST
        if self._now:
            write_if_new(manifest, json.dumps(self._now, indent=0, sort_keys=True) + "\n")
        elif self._before:
            with suppress(OSError):
                manifest.unlink()
                self.path.rmdir()  # unless somebody else keeps something there
        return [self.path / name for name in sorted(self._now)]


@functools.cache
def code_sha256() -> str:
    """Of what makes the files: another version of this package may say the same in another way."""
    here = Path(__file__).parent
    sources = sorted(path for path in (*here.glob("*.py"), *here.glob("templates/*")) if path.is_file())
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def make_folder(path: Path) -> None:
    """Makes a folder that may be there already.

    Raises:
        FileError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(path, f"cannot be created: {error.strerror}") from error


def write_if_new(path: Path, text: str) -> None:
    """Writes a text unless that is what the file holds.

    Raises:
        FileError: it cannot be written.
    """
    if known_sha256(path) != hashlib.sha256(text.encode()).hexdigest():
        write_atomically(path, text)


def _manifest(folder: Path) -> dict[str, tuple[str, str]]:
    """What an earlier report wrote; nothing where nobody says so."""
    try:
        found = parse_json(read_text(folder / MANIFEST))
    except UnreadableError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: (value[0], value[1])
        for name, value in found.items()
        if _NAME.fullmatch(name) and isinstance(value, list) and [type(part) for part in value] == [str, str]
    }
