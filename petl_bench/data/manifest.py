"""What `petl-bench data verify` found out about each clip, as a file that training can rely on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.opening import CODECS
from petl_bench.data.reader import READING_RULES
from petl_bench.errors import DataError
from petl_bench.storage.files import write_atomically
from petl_bench.storage.untrusted import UnreadableError, parse_json, read_bytes, shown

FILE_NAME = "manifest.jsonl"

Status = Literal["ok", "bad", "missing", "extra"]


@dataclass(frozen=True)
class Entry:
    """One clip.

    Attributes:
        id: of the video.
        path: relative to the dataset's root; empty if there is no file.
        status: `ok`; `bad`, if it cannot be decoded as a whole; `missing`, if there is no file; `extra`, if no split
            names it (it is not decoded).
        reason: of anything but `ok`.
        bytes: of the file.
        mtime_ns: when it was last changed.
        sha256: of the file.
        codec: FFmpeg's name, or the kind of picture.
        width: as shown, in pixels.
        height: as shown, in pixels.
        frames: decoded.
        fps: frames per second on average; 0 if the frames have no times.
        duration: in seconds.
        rotation: in degrees counterclockwise, already applied to width and height.
        warnings: what does not make it bad: times that cannot be used, other decoders that disagree.
        rate: whether frames come at one rate, `constant`, `variable` or `unknown`; empty for a picture.
        header_fps: frames per second as the header says.
        display: how frames are shown, e.g. `mirrored left to right`; empty if as they are stored.
        rules: version of what a reader makes of the file (`petl_bench.data.reader.READING_RULES`).
    """

    id: str
    path: str
    status: Status
    reason: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    fps: float = 0.0
    duration: float = 0.0
    rotation: int = 0
    warnings: list[str] = field(default_factory=list)
    rate: Literal["constant", "variable", "unknown", ""] = ""
    header_fps: float = 0.0
    display: str = ""
    rules: int = 1

    def line(self) -> str:
        """The entry as one line of JSON; of names that are no UTF-8, the bytes that are none are escaped."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode() + "\n"


def read_manifest(path: Path, tolerate_cut: bool = False) -> dict[str, Entry]:
    """Entries by video id; a later line replaces an earlier one.

    Args:
        path: the file.
        tolerate_cut: leave out a last line that a kill has cut short.

    Raises:
        DataError: if the file cannot be read, or a line is no entry; it is named.
    """
    try:
        lines = read_bytes(path).split(b"\n")
    except UnreadableError as error:
        raise DataError(f"cannot read the manifest {path}: {error}") from error
    entries = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = _entry(parse_json(line.decode()))
        except (UnreadableError, ValueError) as error:
            if tolerate_cut and number == len(lines):
                continue
            raise DataError(
                f"{path}, line {number} is no entry of a manifest ({error}): run petl-bench data verify again"
            ) from error
        entries[entry.id] = entry
    return entries


def _entry(given: Any) -> Entry:
    """What a line of a manifest says, its values of the types that they are written with.

    Raises:
        ValueError: it is no entry.
    """
    known = {one.name: one for one in fields(Entry)}
    needed = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    if not isinstance(given, dict) or not needed <= given.keys() <= known.keys():
        raise ValueError(f"an object with {', '.join(sorted(needed))} is expected")
    for name, value in given.items():
        usual = known[name].default
        wanted = str if name in needed else list if usual is MISSING else type(usual)
        texts = value if isinstance(value, list) else []
        fits = type(value) in ((int, float) if wanted is float else (wanted,))
        if not fits or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"'{name}' is {shown(value)}")
    if given["status"] not in get_args(Status):
        raise ValueError(f"'status' is {shown(given['status'])}")
    return Entry(**given)


def write_manifest(path: Path, entries: Iterable[Entry]) -> None:
    """Replaces the file by these entries, sorted by id."""
    write_atomically(path, "".join(entry.line() for entry in sorted(entries, key=lambda entry: entry.id)))


def entry_of(entries: Mapping[str, Entry]) -> Callable[[str, str], Entry | None]:
    """Looks up what a manifest says, given the id of a video and the path of its file from the dataset's root.

    The path counts. Where there is no entry of it, the id does, as a file may have been moved.
    """
    by_path = {entry.path: entry for entry in entries.values() if entry.path}
    return lambda video, path: by_path.get(path) or entries.get(video)


def refused(entry: Entry | None, path: Path) -> str | None:
    """Why a clip must not be read, or None if its entry in the manifest calls the file good as it is now."""
    if entry is None or entry.status in ("missing", "extra"):
        return "not verified"
    if entry.status != "ok":
        return entry.reason
    # What an earlier version called good is a file that decodes as a whole. It opened any codec.
    if entry.rules < READING_RULES and path.suffix.lower() not in IMAGE_SUFFIXES and entry.codec not in CODECS:
        return f"its codec, {entry.codec}, is none of those that are opened"
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) != (entry.bytes, entry.mtime_ns):
        return "changed since it was verified"
    return None
