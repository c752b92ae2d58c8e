"""What a report keeps for the next one, in a folder beside it (`<output>/.cache`): nothing that cannot be made again.

Deleting the folder changes no figure. A file that is damaged, of another version or no cache at all counts as empty,
and one that cannot be written is done without.

What is kept is believed: that a record is valid and follows from its ranks, and what its intervals are. So a file
counts only in the very folder that it was written in, by the number that this machine's file system gave that: a
report that somebody else made, or a copy, begins anew. That keeps out what was sent, not those who can write to the
folder: they can write to the report as well. Whoever reads a value looks at its shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from petl_bench.storage.files import FileError, write_bytes_atomically
from petl_bench.storage.untrusted import UnreadableError, read_bytes

FOLDER = ".cache"
#: bytes of a file; what 100,000 runs need
_MOST_BYTES = 2**28


class Kept(MutableMapping[str, Any]):
    """JSON values by key, of which those that were asked for or set since are kept: what nobody needs any more goes.

    Two processes may use one folder at the same time: the file is always whole, and the later one's.

    Args:
        folder: to keep them in; None: nowhere.
        name: of the file, without its ending.
        version: of the rules by which values are made; those of others are no use.
    """

    def __init__(self, folder: Path | None, name: str, version: str) -> None:
        self._path = None if folder is None else folder / f"{name}.json"
        self._head = f"petl_bench report, {name}, {version}"
        self._found = self._read()
        self._used: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._used:
            self._used[key] = self._found[key]
        return self._used[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._used[key] = value

    def __delitem__(self, key: str) -> None:
        del self._used[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._used)

    def __len__(self) -> int:
        return len(self._used)

    def save(self) -> None:
        """Writes what was used, unless that is what the file holds."""
        if self._path is None or self._used == self._found:
            return
        body = json.dumps(self._used, sort_keys=True, separators=(",", ":")).encode()
        with suppress(OSError, FileError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(self._path, self._first_line(self._path.parent, body) + body)
            self._found = dict(self._used)

    def _first_line(self, folder: Path, body: bytes) -> bytes:
        place = folder.stat()
        digest = hashlib.sha256(f"{place.st_dev} {place.st_ino} ".encode() + body).hexdigest()
        return f"{self._head}, SHA-256 with the folder's number {digest}\n".encode()

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            first, end, body = read_bytes(self._path, _MOST_BYTES).partition(b"\n")
            found = json.loads(body) if first + end == self._first_line(self._path.parent, body) else {}
        except (UnreadableError, OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
