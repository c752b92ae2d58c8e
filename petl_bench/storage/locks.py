"""Locks of files, between processes of one machine; they end with the process, however it ends.

Of a process alone (`lockf`, not `flock`): loader processes that outlive a kill for seconds must not hold them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from petl_bench.storage.files import UNABLE, warn_once

#: what `lockf` says where another process has the lock
_TAKEN = frozenset({errno.EACCES, errno.EAGAIN})
#: and where there are no locks to be had
_NO_LOCKS = UNABLE | {errno.ENOLCK}
#: Linux's `struct flock`, 64 bits: type, whence, start, length, process
_FLOCK = "hhqqi4x"


class HeldError(Exception):
    """Another process has the lock."""


@contextmanager
def file_lock(path: Path) -> Iterator[int]:
    """Holds the lock of a file, which is made if need be, until the end of the block.

    A file of another user's that can only be read is locked, too. Where the file system has no locks, there is a
    warning, and none is held.

    Raises:
        HeldError: another process has it.
        OSError: the file can be neither made nor opened, or its file system fails.

    Yields:
        The descriptor of the file.
    """
    descriptor, writable = _opened(path)
    try:
        _take(descriptor, writable, path)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def passing_lock(path: Path) -> Iterator[None]:
    """The same with a file that is gone afterwards; what a killed process leaves of it is in nobody's way.

    Raises:
        HeldError: another process has it.
        OSError: as of `file_lock`.
    """
    with file_lock(path) as descriptor:
        # Who had it before may have removed it after it was opened here: then others make, and lock, a new one.
        if not _is_still(path, descriptor):
            raise HeldError
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether another process has the lock of a file; False where there are no locks.

    Raises:
        OSError: the file is there and cannot be read, or its file system fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _is_taken(descriptor)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    finally:
        os.close(descriptor)


def _opened(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it can be written to. Not made where it is: of another's file that can be refused."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC), True
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), True
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def _take(descriptor: int, writable: bool, path: Path) -> None:
    """Locks for writing; or for reading, if nobody else has locked for reading either."""
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        taken = not writable and _is_taken(descriptor)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warn_once(
                f"{path}: this file system has no locks ({error.strerror}): see to it that no other process works on "
                "the same run"
            )
            return
        if error.errno not in _TAKEN:
            raise
        raise HeldError from error
    if taken:
        raise HeldError


def _is_taken(descriptor: int) -> bool:
    """Whether another process has any lock of a file; can be asked of what is open for reading, too."""
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    found, *_ = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))
    return found != fcntl.F_UNLCK
