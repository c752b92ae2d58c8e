"""The files of a dataset's clips, and which of them a name in an annotation stands for."""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.errors import DataError
from petl_bench.machine.resources import exhausted
from petl_bench.storage.untrusted import is_file, shown

#: of files that are videos
VIDEO_SUFFIXES = tuple(
    f".{name}"
    for name in "mp4 webm mkv avi mov m4v mpg mpeg wmv 3gp 3gpp 3g2 flv ts mts m2ts qt divx asf ogv gif".split()  # noqa: SIM905  # readable
)
#: how alike two names must be for one to be told as what may be meant by the other, and how many are compared
_NEAR, _COMPARED = 0.8, 20_000
_DIGITS = re.compile(r"\d+")
#: characters of a path that a message shows
_PATH = 400
#: why a folder that was not gone into is no clip
_CLOSED = "a folder that cannot be listed"
#: categories of characters that are no part of a name: control characters, halves of pairs, ends of lines
_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})


class AmbiguousClip(DataError):
    """A name may stand for any of several files; the message names them."""


class ClipFiles:
    """The clips below a folder. Linked folders are followed, each real one is visited once.

    A name stands for the file at that path below the folder; else for the one of that name, with the suffix; else for
    the one of that id, which mostly is the name without suffix: a dataset may have been encoded again. Where name and
    file both have folders, these must agree as far as both go. A still is taken where no video has the id. Names are
    compared in Unicode's composed form (NFC), as macOS hands out decomposed ones; where two files differ in that alone,
    it is the very same name that counts. Copies of one file are one.

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
        #: visited folders by what they are, relative to the folder
        self._visited: dict[tuple[int, int], str] = {}
        there = dict(sorted(_walk(folder, "", self._visited)))
        reasons = {name: self._why_no_clip(name, there[name]) for name in there}
        self._no_clips = {name: why for name, why in reasons.items() if why}
        clips = [name for name in there if not reasons[name]]
        self.paths = [folder / name for name in clips]
        self._found: dict[str, Path | None] = {}
        self._ids = dict(zip(clips, map(id_of, self.paths), strict=True))
        self._by_name, self._by_id = _Index(), _Index()
        for name, id in self._ids.items():
            above, _, base = name.rpartition("/")
            self._by_name.add(above, base, name)
            self._by_id.add(above, id, name)

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
        if outside(name):
            return None
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            path = PurePosixPath(spelled)
            if found := self._exact(name, path) or self._named(name, path):
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
        if same := self._by_name.get(base) or self._by_id.get(stem):
            return shown(same[0], _PATH)
        for known, why in self._no_clips.items():
            if f"{_folded(PurePosixPath(known).name)}.".startswith(f"{_folded(stem)}."):
                return f"{shown(known, _PATH)}, {why}"
        wanted = {_folded(base), _folded(stem)}
        for known, id in self._ids.items():
            if wanted & {_folded(PurePosixPath(known).name), _folded(id)}:
                return f"{shown(known, _PATH)}, in other letters"
        # Of numbered clips every one is like every other.
        number = _DIGITS.findall(stem)
        alike = {id: known for known, id in self._ids.items() if _DIGITS.findall(id) == number}
        free = {id: known for id, known in alike.items() if self.folder / known not in used}
        if near := get_close_matches(normal(stem), list(free)[:_COMPARED], 1, _NEAR):
            return shown(free[near[0]], _PATH)
        closed = next((known for known, why in self._no_clips.items() if why == _CLOSED), None)
        return f"{shown(closed, _PATH)}, {_CLOSED}" if closed else ""

    def _why_no_clip(self, name: str, is_regular: bool) -> str:
        if (self.folder / name).is_dir():
            return _CLOSED
        if _suffix(name) not in self._suffixes:
            return "no clip by its suffix"
        if is_regular:
            return ""
        return "a link to nothing" if (self.folder / name).is_symlink() else "no file"

    def _exact(self, name: str, path: PurePosixPath) -> str | None:
        """The file at a path below the folder, or below one above it."""
        parts, above = path.parts, self.folder.absolute().parts
        inside = [parts[n:] for n in range(1, len(parts)) if parts[:n] == above[-n:]]
        for below in ("/".join(parts) for parts in (parts, *inside)):
            if found := self._by_name.get(f"/{below}"):
                return self._only(name, found)
            if "/" in below and _suffix(below) in self._suffixes and is_file(self.folder / below):
                return self._as_visited(below)
        return None

    def _as_visited(self, below: str) -> str:
        """The path of a file whose folder may have been visited under another name."""
        above, _, base = below.rpartition("/")
        visited = self._visited.get(_identity(self.folder / above))
        return below if visited is None else visited + base

    def _named(self, name: str, path: PurePosixPath) -> str | None:
        """The file of that name, or of that id, in whatever folder does not contradict."""
        folders = path.parts[:-1]
        stems = dict.fromkeys((path.name, self._stem(path.name)))
        for index, key in ((self._by_name, path.name), *((self._by_id, stem) for stem in stems)):
            # The files below all of these folders, else the one that is below the most of them and below no other.
            above = ("".join(f"/{folder}" for folder in folders[n:]) for n in range(1, len(folders) + 1))
            for place in ("/".join((*folders, key)), *(f"{place}/{key}" for place in above)):
                if found := index.get(place):
                    return self._only(name, found)
        return None

    def _stem(self, base: str) -> str:
        return self._id_of(Path(base)) if _suffix(base) in self._suffixes else base

    def _only(self, name: str, found: Sequence[str]) -> str:
        """The one of several files that a name stands for."""
        found = [known for known in found if _suffix(known) not in IMAGE_SUFFIXES] or found
        first, *others = found
        other = next((known for known in others if not _alike(self.folder / first, self.folder / known)), None)
        if other is None:
            return first
        both = " or ".join(shown(str(self.folder / known), _PATH) for known in (first, other))
        told = "; they differ in their Unicode normal form alone" if normal(first) == normal(other) else ""
        raise AmbiguousClip(
            f"{shown(name, _PATH)} may be {both}{told}: move all but one away, or name it by its path in the "
            "annotations"
        )


class _Index:
    """Files by the end of their path, of any length; `/` before it where it is all of the path below the folder."""

    def __init__(self) -> None:
        self._spelled = defaultdict[str, list[str]](list)
        self._composed = defaultdict[str, list[str]](list)

    def add(self, above: str, base: str, name: str) -> None:
        """Adds a file of some name or id in folders."""
        folders = above.split("/") if above else []
        for n in range(len(folders) + 1):
            self._put("/".join((*folders[n:], base)), name)
        self._put("/" + "/".join((*folders, base)), name)

    def _put(self, key: str, name: str) -> None:
        self._spelled[key].append(name)
        if not key.isascii():
            self._composed[normal(key)].append(name)

    def get(self, key: str) -> Sequence[str]:
        """The files whose path ends like that, spelled in the very same way if there are any."""
        return self._spelled.get(key) or self._composed.get(normal(key)) or ()


def outside(name: str) -> str:
    """Why a name cannot be that of a clip below some folder; empty if it can."""
    parts = name.replace("\\", "/").split("/")
    if not is_text(name) or not any(part not in ("", ".") for part in parts):
        return "is no file name"
    if name.startswith(("/", "\\")) or PureWindowsPath(name).is_absolute():
        return "is an absolute path, and must be one below the folder of clips"
    return "is not inside the folder of clips: it leads out of it" if ".." in parts else ""


def is_text(name: str) -> bool:
    """Whether a name has no control characters and no line ends; spaces of all scripts can be part of one."""
    return name.isprintable() or not any(unicodedata.category(character) in _NO_TEXT for character in name)


def relative(path: Path, root: Path) -> str:
    """A file's path as seen from a dataset's root, also where it is not below it."""
    return Path(os.path.relpath(path, root)).as_posix()


def normal(name: str) -> str:
    """A name as it is compared with others: in Unicode's composed form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _walk(folder: Path, below: str, visited: dict[tuple[int, int], str]) -> Iterator[tuple[str, bool]]:
    """Paths relative to the folder of all that is no folder, and whether it is a regular file."""
    try:
        if (identity := _identity(folder / below)) in visited:
            return
        visited[identity] = below
        entries = list(os.scandir(folder / below))
    except OSError as error:
        if lacking := exhausted(error, folder / below):
            raise lacking from error
        if not below:
            told = f"this folder of clips cannot be listed: {error.strerror}; make it readable (chmod -R g+rX)"
            raise DataError(f"{folder}: {told}") from error
        yield below.removesuffix("/"), False  # not ours to read, as lost+found may be
        return
    # Real folders before links to them, so that their clips have the names that one would give them.
    for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
        try:
            is_folder, is_regular = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_regular = False
        if is_folder:
            yield from _walk(folder, f"{below}{entry.name}/", visited)
        else:
            yield below + entry.name, is_regular


def _alike(first: Path, other: Path) -> bool:
    """Whether two files have one content."""
    try:
        return first.samefile(other) or filecmp.cmp(first, other, shallow=False)
    except OSError:  # one that cannot be read
        return False


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}"


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _folded(name: str) -> str:
    return normal(name).casefold()
