"""Untrusted files: whatever is wrong with their bytes becomes one error of one line."""

from __future__ import annotations

import json
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petl_bench.machine.resources import exhausted

#: bytes of a text file; the largest annotation files in use have half a gigabyte
MAX_BYTES = 4_000_000_000
#: how files begin, in lower case, that are taken for something else, and what they are
_MISTAKEN = {
    b"pk\x03\x04": "a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file: git lfs pull gets it",
    b"<!doctype html": "a web page in place of the file: download it again",
    b"<html": "a web page in place of the file: download it again",
}


class UnreadableError(Exception):
    """What is wrong with a file, in one line that does not name it; callers raise an error of their own from it."""


def expanded(path: str | Path) -> Path:
    """A path with the home folder for `~`; as it is where that is nobody's, or no name of a file: nothing is there."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def is_file(path: Path) -> bool:
    """Whether a regular file is there; False, too, where nobody may look, or for what is no name of a file.

    Raises:
        StorageError: the storage does not answer.
    """
    try:
        return path.is_file()
    except OSError as error:
        if lacking := exhausted(error, path):
            raise lacking from error
        return False
    except ValueError:
        return False


def hidden(path: Path) -> str:
    """Says of what is no file to this user that it may be one to others; empty if it may not."""
    try:
        path.stat()
    except PermissionError as error:
        return f"cannot be looked at: {error.strerror}"
    except (OSError, ValueError):
        pass
    return ""


def is_folder(path: Path) -> bool:
    """Whether a folder is there; False as of `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file; a device or a FIFO would never end.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        UnreadableError: if it is missing, no regular file, too large, or cannot be read.
        ResourceError: if that is for want of something that this machine lacks.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if status.st_size > limit:
            raise UnreadableError(f"{status.st_size} bytes are too many; refusing it")
        return path.read_bytes()
    except OSError as error:
        raise exhausted(error, path) or UnreadableError(error.strerror or type(error).__name__) from error
    except ValueError as error:  # a zero byte in its name
        raise UnreadableError(str(error)) from error


def mistaken(path: Path) -> str:
    """What a file that could not be read is instead; empty if it is nothing well-known."""
    try:
        with path.open("rb") as file:
            return _kind(file.read(100))
    except (OSError, ValueError):
        return ""


def _kind(start: bytes) -> str:
    head = start[:100].lstrip().lower()
    return next((f"this is {kind}" for known, kind in _MISTAKEN.items() if head.startswith(known)), "")


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        UnreadableError: if it cannot be read, is empty, or is no UTF-8 text.
    """
    data = read_bytes(path, limit)
    if kind := _kind(data):
        raise UnreadableError(kind)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            f"byte {error.start} is not UTF-8 (line {line}): save the file as UTF-8, if it is not damaged"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UnreadableError(f"a zero byte in line {line}: damaged, no text, or UTF-16 to be saved as UTF-8")
    if not text.strip():
        raise UnreadableError("the file is empty")
    return text


def parse_json(text: str) -> Any:
    """The value of a JSON text; NaN and Infinity pass, as Python writes them into fields that nobody reads.

    Raises:
        UnreadableError: if it is no JSON, gives a key of one object twice, or nests or counts beyond all measure.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise UnreadableError("it nests too deeply") from error
    except json.JSONDecodeError as error:
        raise UnreadableError(str(error)) from error
    except ValueError as error:  # Python limits the digits of a number, and says how to lift that
        raise UnreadableError(str(error).split(";")[0]) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON alone would silently keep the last of two values."""
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shown(twice)} occurs twice in one object, {shown(record)}")
    return record


def shown(value: Any, characters: int = 60) -> str:
    """A value for a message: one line, short, printable, whatever it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = characters
    short.maxlevel = 2
    try:
        return short.repr(value)
    except ValueError:  # a number of too many digits
        return type(value).__name__


def shown_all(names: Sequence[str], most: int = 3) -> str:
    """The first of some names for a message."""
    return ", ".join(map(shown, names[:most])) + (", ..." if len(names) > most else "")


def described(value: Any) -> str:
    """A value for a message, with its type."""
    return f"{type(value).__name__} {shown(value)}"


def plain_text(text: str) -> str:
    """Text that can be encoded; what is left of a torn surrogate pair becomes U+FFFD, as decoders make it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def whole_number(value: Any) -> int | None:
    """A whole number as CSV (`"7"`, `"7.0"`) or JSON (`7`, `7.0`) gives it; None for all else, also for true."""
    if isinstance(value, str):
        digits = re.fullmatch(r"\s*([+-]?[0-9]{1,18})(\.0*)?\s*", value)
        return int(digits[1]) if digits else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
