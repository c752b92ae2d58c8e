"""Which file is meant where an annotation names a clip."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.errors import DataError
from petl_bench.resources import exhausted
from petl_bench.untrusted import shown

#: names that are compared with one that is missing
_COMPARED = 20_000


class ClipFiles:
    """The clips below a folder, found by what annotations call them.

    The exact path comes first, then the name with its suffix, then the id of the dataset, usually the stem; the folders
    that a name has are kept to where a clip is in such a folder. A still is taken where no video has the name. Unicode
    is compared in its composed form (NFC). Linked folders are followed.

    Args:
        folder: of the clips; it need not be flat.
        suffixes: of files that are clips, in lower case.
        file_id: the dataset's id of the clip that a file is for.
    """

    def __init__(self, folder: Path, suffixes: Iterable[str], file_id: Callable[[Path], str]) -> None:
        self.folder = folder
        known = frozenset(suffixes)
        #: all of them, sorted
        self.files = sorted(path for path in _walk(folder) if path.suffix.lower() in known and path.is_file())
        self._suffixes, self._file_id = known, file_id
        self._exact = {path.relative_to(folder).as_posix(): path for path in self.files}
        self._by_name, self._by_id = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
        for path in self.files:
            self._by_name[normalize("NFC", path.name)].append(path)
            self._by_id[normalize("NFC", file_id(path))].append(path)

    def find(self, names: Iterable[str]) -> dict[str, Path]:
        """The file of each name that has one.

        Raises:
            DataError: several different files could be meant.
        """
        found = ((name, self._one(name)) for name in names)
        return {name: path for name, path in found if path is not None}

    def nearest(self, name: str) -> str | None:
        """The clip whose name is most like one that was not found; None if none is."""
        names = [path.relative_to(self.folder).as_posix() for path in self.files[:_COMPARED]]
        by_folded = {PurePosixPath(own).stem.casefold(): own for own in names}
        close = get_close_matches(PurePosixPath(name).name.casefold(), by_folded, 1, 0.75)
        return by_folded[close[0]] if close else None

    def unused(self, used: Iterable[Path]) -> dict[str, Path]:
        """Files that are none of these, by id."""
        rest = set(self.files).difference(used)
        return {self._file_id(path): path for path in self.files if path in rest}

    def _one(self, name: str) -> Path | None:
        if name in self._exact:
            return self._exact[name]
        candidates = self._candidates(name)
        if not candidates and "\\" in name:  # written on Windows
            return self._one(name.replace("\\", "/"))
        videos = [path for path in candidates if path.suffix.lower() not in IMAGE_SUFFIXES]
        return _only(name, videos or candidates)

    def _candidates(self, name: str) -> Sequence[Path]:
        plain = PurePosixPath(normalize("NFC", name))
        stem = plain.stem if plain.suffix.lower() in self._suffixes else plain.name
        for index, key in ((self._by_name, plain.name), (self._by_id, str(plain)), (self._by_id, plain.name)):
            if found := index.get(key):
                return self._in_folders(plain.parent, found)
        return self._in_folders(plain.parent, self._by_id.get(stem, []))

    def _in_folders(self, parent: PurePosixPath, paths: Sequence[Path]) -> Sequence[Path]:
        """Those that are in the folders of a name; all, if none is."""

        def ends(path: Path) -> bool:
            own = normalize("NFC", path.parent.relative_to(self.folder).as_posix())
            return f"/{own}".endswith(f"/{parent.as_posix()}")

        inside = [path for path in paths if ends(path)]
        return inside if parent.parts and inside else paths


def _only(name: str, paths: Sequence[Path]) -> Path | None:
    """The one file among some; copies of one file are one.

    Raises:
        DataError: they differ.
    """
    if not paths:
        return None
    first, *others = paths
    for other in others:
        if not filecmp.cmp(first, other, shallow=False):
            raise DataError(
                f"clip {shown(name)} could be {first} or {other}: name the folder and the suffix in the annotations, "
                "or move one of them away"
            )
    return first


def _refuse(error: OSError) -> None:
    """Of a folder that cannot be listed: its clips are not missing."""
    path = Path(str(error.filename))
    if isinstance(error, FileNotFoundError):  # removed meanwhile
        return
    raise exhausted(error, path) or DataError(
        f"{path}: this folder of clips cannot be listed: {error.strerror}; make it readable (chmod -R g+rX)"
    ) from error


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, linked folders included, each folder once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(place, name) for name in names)
