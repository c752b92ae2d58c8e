"""The files of a dataset's clips, and which of them a name in an annotation stands for."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath

from petl_bench.errors import DataError

#: how alike two names must be for one to be shown as what may be meant by the other
_NEAR = 0.8
_DIGITS = re.compile(r"\d+")


class AmbiguousClip(DataError):
    """A name may stand for any of several files; the message names them."""


class ClipFiles:
    """The clips below a folder. Linked folders are followed, each real one is visited once.

    A name stands for the file at that path below the folder; else for the one of that name, with the suffix; else for
    the one of that id, which is the name without suffix: a dataset may have been encoded again. Where name and file
    both have folders, these must agree as far as both go. Names are compared in Unicode's composed form (NFC), as
    macOS hands out decomposed ones; where two files differ in that alone, it is the very same name that counts.

    Args:
        folder: of the clips.
        suffixes: of files that are clips, in small letters.
        id_of: the video id that a file is for.

    Attributes:
        folder: of the clips.
        paths: of all clips, sorted.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str], id_of: Callable[[Path], str]) -> None:
        if not folder.is_dir():
            raise DataError(f"no folder of clips at {folder}: set data.root and data.videos")
        self.folder, self._id_of, self._suffixes = folder, id_of, frozenset(suffixes)
        there = dict(sorted(_walk(folder, "", set())))
        reasons = {name: self._why_no_clip(name, is_file) for name, is_file in there.items()}
        self._no_clips = {name: why for name, why in reasons.items() if why}
        clips = [name for name in there if not reasons[name]]
        self.paths = [folder / name for name in clips]
        self._found: dict[str, Path | None] = {}
        self._by_path = _grouped(clips, clips)
        self._by_name = _grouped((name.rpartition("/")[2] for name in clips), clips)
        self._by_id = _grouped(map(id_of, self.paths), clips)

    def find(self, names: Sequence[str]) -> Path | None:
        """The file that a video is in; None if there is none.

        Args:
            names: of the video; the first one that stands for a file counts.

        Raises:
            AmbiguousClip: it stands for several.
        """
        for name in names:
            if name not in self._found:
                self._found[name] = self._find(name)
            if path := self._found[name]:
                return path
        return None

    def _find(self, name: str) -> Path | None:
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            if found := self._exact(name, spelled) or self._named(name, PurePosixPath(spelled)):
                return self.folder / found
        return None

    def hint(self, name: str, used: Collection[Path] = ()) -> str:
        """What there is in place of a file that was not found; empty if nothing is like it.

        Args:
            name: that stands for no file.
            used: files that stand for others.
        """
        base = PurePosixPath(name.replace("\\", "/")).name
        stem = self._stem(base)
        if same := self._by_name.get(normal(base)) or self._by_id.get(normal(stem)):
            return _shown(same[0])
        for known, why in self._no_clips.items():
            if f"{_folded(PurePosixPath(known).name)}.".startswith(f"{_folded(stem)}."):
                return f"{_shown(known)}, {why}"
        folded = {_folded(key): paths[0] for index in (self._by_id, self._by_name) for key, paths in index.items()}
        if other := folded.get(_folded(base)) or folded.get(_folded(stem)):
            return f"{_shown(other)}, in other letters"
        # Of numbered clips every one is like every other.
        number = _DIGITS.findall(stem)
        free = {key: paths[0] for key, paths in self._by_id.items() if _DIGITS.findall(key) == number}
        free = {key: path for key, path in free.items() if self.folder / path not in used}
        near = get_close_matches(normal(stem), free, 1, _NEAR)
        return _shown(free[near[0]]) if near else ""

    def _why_no_clip(self, name: str, is_file: bool) -> str:
        if _suffix(name) not in self._suffixes:
            return "no clip by its suffix"
        if is_file:
            return ""
        return "a link to nothing" if (self.folder / name).is_symlink() else "no file"

    def _exact(self, name: str, spelled: str) -> str | None:
        """The file at a path below the folder, or below one above it."""
        parts, above = PurePosixPath(spelled).parts, self.folder.absolute().parts
        inside = [parts[n:] for n in range(1, len(parts)) if parts[:n] == above[-n:]]
        for path in ("/".join(parts) for parts in (parts, *inside)):
            if found := self._by_path.get(normal(path)):
                return self._only(name, found, lambda known: known, path)
            # A folder may have been visited under another name.
            if "/" in path and _suffix(path) in self._suffixes and (self.folder / path).is_file():
                return path
        return None

    def _named(self, name: str, path: PurePosixPath) -> str | None:
        """The file of that name, or of that id, in whatever folder does not contradict."""
        keys = dict.fromkeys((path.name, self._stem(path.name)))
        places = [(self._by_name, path.name, lambda known: PurePosixPath(known).name)]
        places += [(self._by_id, key, lambda known: self._id_of(self.folder / known)) for key in keys]
        for index, key, spelling in places:
            agreed = {known: _agreement(path, known) for known in index.get(normal(key), ())}
            best = max((n for n in agreed.values() if n is not None), default=None)
            if best is not None:
                return self._only(name, [known for known, n in agreed.items() if n == best], spelling, key)
        return None

    def _stem(self, base: str) -> str:
        return self._id_of(Path(base)) if _suffix(base) in self._suffixes else base

    def _only(self, name: str, found: Sequence[str], spelling: Callable[[str], str], wanted: str) -> str:
        """The one of several files that a name stands for."""
        spellings = {spelling(known) for known in found}
        if len(spellings) > 1:
            found = [known for known in found if spelling(known) == wanted] or found
        files = {_identity(self.folder / known): known for known in reversed(found)}
        if len(files) == 1:
            return found[0]
        alike = len({normal(known) for known in files.values()}) == 1
        told = "; they differ in their Unicode normal form alone" if alike else ""
        raise AmbiguousClip(
            f"'{_shown(name)}' may be {' or '.join(_shown(str(self.folder / known)) for known in found[:3])}{told}: "
            "move all but one away, or name it by its path in the annotations"
        )


def outside(name: str) -> str:
    """Why a name cannot be that of a clip below some folder; empty if it can."""
    parts = name.replace("\\", "/").split("/")
    if not name.isprintable() or not any(part not in ("", ".") for part in parts):
        return "is no file name"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or PureWindowsPath(name).drive:
        return "is an absolute path, and must be one below the folder of clips"
    return "is not inside the folder of clips: it leads out of it" if ".." in parts else ""


def relative(path: Path, root: Path) -> str:
    """A file's path as seen from a dataset's root, also where it is not below it."""
    return Path(os.path.relpath(path, root)).as_posix()


def _walk(folder: Path, below: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Paths relative to the folder of all that is no folder, and whether it is a file."""
    try:
        if (identity := _identity(folder / below)) in seen:
            return
        seen.add(identity)
        entries = list(os.scandir(folder / below))
    except OSError:  # a folder that is not ours to read, as lost+found
        return
    # Real folders before links to them, so that their clips have the names that one would give them.
    for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder:
            yield from _walk(folder, f"{below}{entry.name}/", seen)
        else:
            yield below + entry.name, is_file


def _grouped(keys: Iterator[str] | Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in zip(keys, names, strict=True):
        groups[key if key.isascii() else normal(key)].append(name)
    return dict(groups)


def _agreement(path: PurePosixPath, known: str) -> int | None:
    """How many folders two paths have in common, from the file upwards; None if they contradict each other."""
    wanted, there = (normal(str(one)).split("/")[-2::-1] for one in (path, known))
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, there, strict=False)))
    return common if common == min(len(wanted), len(there)) else None


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}"


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def normal(name: str) -> str:
    """A name as it is compared with others: in Unicode's composed form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return normal(name).casefold()


def _shown(name: str) -> str:
    """As text that can be printed: Linux takes any bytes for names."""
    return name.encode(errors="replace").decode()
