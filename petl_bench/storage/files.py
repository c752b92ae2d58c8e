"""One way of writing files: whole or not at all, with the permissions that umask and folder give.

Not every file system can do everything: what one lacks (flushing to disk, figures of free space) is done without, in
one warning.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from petl_bench.errors import PetlBenchError, StorageError
from petl_bench.machine.resources import exhausted

#: what file systems say of calls that they do not have
UNABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY})
#: and of links that they, or the rules about other users' files, do not allow
NO_LINK = UNABLE | {errno.EPERM, errno.EMLINK, errno.EXDEV}
#: how often a name that a server of files has lost sight of is asked for, and seconds in between
_TRIES, _PAUSE = 3, 0.2
_warned: set[str] = set()


class FileError(PetlBenchError):
    """A run record or report cannot be read, is not valid, or cannot be written.

    Attributes:
        path: the file.
        reason: what is wrong with it, one line.
    """

    exit_code = 5

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of another one at the end of the block, flushed to disk; unless the block fails.

    It is a new file: what umask and folder (setgid) say of its mode and group holds, whoever owned the one before.

    Raises:
        OSError: it cannot be written; the one before stays as it was.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            yield file
            flush(file)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 text so that the file is either the old or the new one, see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Writes through a temporary file of the same folder, flushed to disk, then renamed (`petl_bench.storage.files`).

    Raises:
        ResourceError: this machine has no more files to open.
        FileError: the file cannot be written; a previous version stays as it was.
    """
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """`replacing`, for content that is made piece by piece.

    Raises:
        ResourceError: this machine has no more files to open.
        FileError: the file cannot be written; a previous version stays as it was.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        lacking = exhausted(error, path)
        if lacking is not None and not isinstance(lacking, StorageError):
            raise lacking from error
        raise FileError(path, f"cannot be written: {error.strerror}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which gets its name at the end of the block; unless the block fails, then it is gone.

    Args:
        path: of the folder, which must not exist.

    Raises:
        FileError: it cannot be made.
    """
    temporary = temporary_of(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise FileError(path, f"cannot be made: {error.strerror}") from error
    try:
        yield temporary
        flush_folder(temporary)
        temporary.rename(path)
    except OSError as error:
        lacking = exhausted(error, path)
        raise lacking or FileError(path, f"cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(path.parent)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        ResourceError: this machine has no more files to open, or the storage does not answer.
        FileError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise exhausted(error, path) or FileError(path, f"cannot be read: {error.strerror}") from error


def known_sha256(path: Path | None) -> str | None:
    """The same for a file that can be read; None for any other."""
    try:
        return None if path is None else file_sha256(path)
    except FileError:
        return None


def temporary_of(path: Path) -> Path:
    """Where a file is written before it gets its name; machines and containers may have equal names and numbers."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def flush(file: IO[bytes]) -> None:
    """Flushes an open file to disk, where the file system can.

    Raises:
        OSError: the disk is full or fails.
    """
    file.flush()
    _fsync(file.fileno(), Path(file.name).parent)


def flush_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk, where the file system can and this user may read the folder.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that can be written to need not be readable
        return
    try:
        _fsync(descriptor, folder)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Renames a file over another one of its folder; a server that lost sight of one of them is asked again.

    Raises:
        OSError: it cannot be done.
    """
    for left in reversed(range(_TRIES)):
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.ESTALE or not left:
                raise
            time.sleep(_PAUSE)
        else:
            return


def make_ours(path: Path) -> None:
    """Puts a copy in the place of a file of another user's that is to be added to, and keeps its mode.

    Does nothing where there is no file, or it can be written to.

    Raises:
        OSError: it cannot be read, or its folder cannot be written to.
    """
    if not path.is_file() or os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return
    mode = path.stat().st_mode
    with replacing(path) as file:
        file.write(path.read_bytes())
        os.fchmod(file.fileno(), mode & 0o666)


def free_bytes(folder: Path) -> int | None:
    """Bytes that a disk has left; None where the file system does not say.

    Raises:
        OSError: the folder is not there, or its disk fails.
    """
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        return None
    return usage.free if usage.total else None  # some say nothing by zeros


def warn_once(text: str) -> None:
    """Warns once per process."""
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, stacklevel=3)


def _fsync(descriptor: int, folder: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNABLE | {errno.EBADF, errno.EROFS}:
            raise
        warn_once(
            f"{folder}: this file system cannot flush files to disk ({error.strerror}); a power cut may lose the last"
        )
