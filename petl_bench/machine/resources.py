"""What ran out, told apart from what is wrong with a file: the number of an error decides, not where it came up.

A machine that is out of threads, files, memory or space says nothing about the video that was being read, and neither
does storage that does not answer. Such errors end the command in one line that names the limit and what to set.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from petl_bench.errors import ResourceError, StorageError
from petl_bench.machine import cgroups

_FEWER = "fewer --workers (petl-bench data) or data.num_workers (runs)"
#: what numbers of errors say of storage that is there, but gives nothing
_SILENT = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO, errno.ENXIO, errno.ESHUTDOWN, errno.ECONNRESET),
        *(errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED, errno.EKEYREJECTED),
    }
)
#: numbers that FFmpeg gives for damaged files, too
_AMBIGUOUS = _SILENT | {errno.ENOMEM}
#: numbers that libraries which have errors of their own write into their texts
_NUMBERED = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)|\berrno[:= ]+(\d+)", re.I)
_SAID = (
    (re.compile(r"can't start new thread|thread creation failed|pthread_create failed", re.I), errno.EAGAIN),
    (re.compile(r"bad_alloc|failed to map segment|DefaultCPUAllocator|unable to mmap", re.I), errno.ENOMEM),
    (re.compile(r"received \d+ items of ancdata", re.I), errno.EMFILE),  # of a tensor that a loader process sent
)
#: bytes of address space below which importing torch, or its threads, may end the process without a word of ours
_USUAL = 5 * 2**30
#: added to the number of an error, the exit code of a helper
_CODES = 160
#: bytes of address space that a process with memory to spare gets
_PROBE = 256 * 2**20


def exhausted(error: BaseException, path: Path | None = None) -> ResourceError | None:
    """What an error says of the machine; None if it is about something else.

    Args:
        error: of a system call, or of a library that met one.
        path: what was being read or written. Without one, an error of a connection is not put down to storage.

    Returns:
        The error for the user, to be raised from `error`.
    """
    if isinstance(error, ResourceError):
        return error
    number = error_number(error)
    if path is None and isinstance(name := getattr(error, "filename", None), str | bytes):
        path = Path(os.fsdecode(name))
    if number in _SILENT:
        return None if path is None else StorageError(_silent(path, number))
    told = _RAN_OUT.get(number or 0)
    if told is None:
        return None
    kind, text = told
    return kind(f"{text()}{f' (met at {path}, which is not at fault)' if path else ''}")


def exhausted_by_parser(error: BaseException, path: Path) -> ResourceError | None:
    """As `exhausted`, of a decoder or parser, which may say the same of a damaged file: then the machine is asked.

    A damaged header can ask for more memory than there is, and a cut file is an input error to some of FFmpeg's
    demultiplexers.
    """
    if error_number(error) not in _AMBIGUOUS:
        return exhausted(error, path)
    try:
        mmap.mmap(-1, _PROBE).close()
        with path.open("rb") as file:
            while file.read(2**20):
                pass
    except (OSError, MemoryError) as cause:
        return exhausted(cause, path)
    return None


def error_number(error: BaseException) -> int | None:
    """The number of the system's error behind an error; None if there is none."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    text = str(error)
    for line in reversed(text.splitlines()):  # of a loader process, the cause stands last
        if found := _NUMBERED.search(line):
            return int(next(filter(None, found.groups())))
    said = (known for pattern, known in _SAID if pattern.search(text))
    return next(said, next((known for known in _RAN_OUT if os.strerror(known).lower() in text.lower()), None))


def warn_of_limits() -> None:
    """Says before torch is imported that C++ code may end this process, which then cannot say why."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < _USUAL:
        print(
            f"petl-bench: warning: ulimit -v is {soft // 1024}; torch takes up to {_USUAL // 1024} of address space, "
            "and may end without a word (bad_alloc, Aborted): raise it, and limit memory otherwise",
            file=sys.stderr,
        )


def exit_code_of(error: BaseException) -> int:
    """The exit code by which a helper process says what it lacks, for want of other means; `helper_lacked` reads it."""
    return _CODES + (error_number(error) or 0)


def helper_lacked(code: int) -> ResourceError | None:
    """What the exit code of a helper says of the machine; None if its own work may have ended it."""
    if code == -signal.SIGKILL:
        return ResourceError(
            "a helper process was killed (SIGKILL) from outside, as the kernel does when memory runs out (see dmesg): "
            f"{_less_memory()}"
        )
    return exhausted(OSError(code - _CODES, "")) if code > _CODES else None


def helper_lacked_by(text: str) -> ResourceError | None:
    """The same from torch's message about a loader process, which may come wherever the run is at that moment."""
    if "killed by signal: Killed" in text:
        return helper_lacked(-signal.SIGKILL)
    code = re.search(r"with exit code (\d+)", text)
    return helper_lacked(int(code[1])) if code else None


def no_more_helpers() -> ResourceError:
    """The error for a helper process that could not be started."""
    return ResourceError(_no_threads())


#: what to do about a machine that cannot keep up
LESS_AT_ONCE = f"this machine is short of memory, threads or time; set {_FEWER}"


def _no_files() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = f"raise it (ulimit -n {_limit(hard)})" if soft != hard else "have it raised (ulimit -Hn)"
    return f"too many open files in one process (ulimit -n is {_limit(soft)}): {more}, or set {_FEWER}"


def _no_files_at_all() -> str:
    return f"too many open files on this machine (sysctl fs.file-max): have it raised, close others, or set {_FEWER}"


def _no_threads() -> str:
    limits = [f"ulimit -u is {_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0])}"]
    if pids := _pids_limit():
        limits.append(f"the pids limit of this container or job is {pids}")
    return (
        f"no more threads or processes can be started ({', '.join(limits)}): raise the limit, or set {_FEWER}, and "
        "OMP_NUM_THREADS=1"
    )


def _no_memory() -> str:
    return f"out of memory ({_memory_limits()}): {_less_memory()}"


def _less_memory() -> str:
    return f"set {_FEWER}, or a smaller data.batch_size, or give the job more memory"


def _memory_limits() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return "ulimit -v is " + (_limit(soft) if soft == resource.RLIM_INFINITY else f"{soft // 1024}")


def _no_space() -> str:
    return "no space left on the device: free some, or set another folder (--runs_dir, --cache, --manifest, TMPDIR)"


def _no_quota() -> str:
    return "the disk quota is used up: free some, or set another folder (--runs_dir, --cache, --manifest, TMPDIR)"


_RAN_OUT: dict[int, tuple[type[ResourceError], Callable[[], str]]] = {
    errno.ENFILE: (ResourceError, _no_files_at_all),  # before EMFILE, whose text begins its own
    errno.EMFILE: (ResourceError, _no_files),
    errno.EAGAIN: (ResourceError, _no_threads),
    errno.ENOMEM: (ResourceError, _no_memory),
    errno.ENOSPC: (StorageError, _no_space),
    errno.EDQUOT: (StorageError, _no_quota),
}


def _silent(path: Path, number: int) -> str:
    return (
        f"{path}: the storage does not give it ({os.strerror(number)}): see to its disk or server, then give the same "
        "command again; a file that is lost for good is to be deleted"
    )


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _pids_limit() -> str:
    """The smallest limit of processes of the control groups of this process; empty if there is none."""
    found: list[int] = []
    for _, folder in cgroups.folders("pids"):
        with suppress(OSError, ValueError):  # no such file, or `max`: there is no limit
            found.append(int((folder / "pids.max").read_text(encoding="ascii")))
    return str(min(found)) if found else ""
