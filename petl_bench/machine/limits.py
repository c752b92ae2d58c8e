"""What this machine lacks or forbids, in one line, whatever the libraries raise."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from petl_bench.errors import CheckpointError, DataError, PetlBenchError, UsageError, chain
from petl_bench.machine.installation import lacking
from petl_bench.machine.resources import exhausted, warn_of_limits

#: where torch would keep compiled kernels; it asks on being imported, and nothing here is compiled
_TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"
#: stands for the folder of temporary files where there is none: libraries ask for its name when they are imported, and
#: whoever wants to write there fails with this name in the message
_NO_TEMPORARY = "/no-folder-for-temporary-files"
#: of files and devices, and not of what they hold
_STORAGE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENODEV, errno.ENOLCK, errno.ELOOP),
}
_NO_SHARED_MEMORY = re.compile(r"shared memory|shm_open|torch_shm_manager|/torch_\d+_\d+")
_NO_LIBRARY = re.compile(r"cannot open shared object file|undefined symbol|version `\S+' not found|wrong ELF class")


def prepare() -> None:
    """Makes do with what this machine has, before torch is imported; says where that may end the process.

    Raises:
        UsageError: the current folder was deleted, where libraries fail in ways of their own.
    """
    try:
        os.getcwd()  # noqa: PTH109  # Path.cwd() may not ask
    except OSError as error:
        raise UsageError(f"the current folder cannot be used ({error.strerror}): cd to another one") from error
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = _NO_TEMPORARY
        os.environ.setdefault(_TORCH_CACHE, os.sep)  # any folder that is there
    warn_of_limits()


def require_temporary_folder() -> None:
    """Makes sure that processes which communicate through a temporary file have a folder for it.

    Raises:
        CheckpointError: there is no folder for temporary files.
    """
    if tempfile.gettempdir() == _NO_TEMPORARY:
        raise _no_temporary_folder()


def fault_of_machine(error: BaseException) -> PetlBenchError | None:
    """What an error says of this machine rather than of this program; None if it does not.

    What it was raised from is looked at, too: libraries wrap what happens to them.
    """
    found = next((found for one in chain(error) if (found := _fault(one))), None)
    if found is None and (told := lacking(error)):
        return UsageError(told)
    return found


@contextmanager
def explaining_machine_faults() -> Iterator[None]:
    """Turns an operating-system error into the message that the command line gives for it."""
    try:
        yield
    except PetlBenchError:
        raise
    except Exception as error:
        if (known := fault_of_machine(error)) is not None:
            raise known from error
        raise


def _fault(error: BaseException) -> PetlBenchError | None:
    text = " ".join(str(error).split())
    if isinstance(error, PetlBenchError):
        return None
    if "No usable temporary directory" in text or _NO_TEMPORARY in text:
        return _no_temporary_folder()
    if "Could not determine home directory" in text:
        return UsageError("'~' in a path stands for nothing here, where HOME is not set: give the whole path")
    if "daemonic processes are not allowed to have children" in text:
        return UsageError(
            "this process may start no others (it is a daemon of multiprocessing): set data.num_workers 0"
        )
    if isinstance(error, ImportError):
        return _import_fault(error, text)
    if isinstance(error, RuntimeError | OSError) and _NO_SHARED_MEMORY.search(text):
        return DataError(
            f"loader processes need shared memory, which cannot be had here ({text[:150]}): set data.num_workers 0, "
            "or mount /dev/shm"
        )
    return exhausted(error) or (_system_fault(error) if isinstance(error, OSError) else None)


def _import_fault(error: ImportError, text: str) -> PetlBenchError | None:
    if out := exhausted(error):
        return out
    if _NO_LIBRARY.search(text):
        return UsageError(f"a library of this environment cannot be loaded ({text[:200]}): install petl_bench again")
    return None


def _system_fault(error: OSError) -> PetlBenchError | None:
    if error.errno not in _STORAGE:
        return None
    where = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return CheckpointError(f"{where or 'a file'}: {error.strerror}")


def _no_temporary_folder() -> CheckpointError:
    return CheckpointError("no folder for temporary files can be written to: set TMPDIR to one that can")
