"""F125-F129: folders that several users share, and file systems that cannot do everything; needs root."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.faults.trials import HELD, PETL_BENCH, Bench, Ended, Trial, completed, first_problem, refused, resumed

#: users of this machine that own nothing, and their group
OWNER, COLLEAGUE, GROUP = 54_321, 54_322, 54_320
#: shows the interpreter to users who may not look into the folder that it is installed in
_SHOWN = """
top=$1 inside=$2; shift 2
mount -t tmpfs none /mnt && mkdir /mnt/it && mount --bind "$inside" /mnt/it || exit 99
mount -t tmpfs -o mode=755 none "$top" && mkdir -p "$inside" && mount --bind /mnt/it "$inside" || exit 99
exec "$@"
"""
#: a library that answers as file systems do that have no locks, no links, and no way to flush
_CANNOT = """
#include <errno.h>
#include <linux/fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
static int answer(int file, int what, long with) {
    if (what == F_SETLK || what == F_SETLKW || what == F_GETLK) { errno = ENOLCK; return -1; }
    return syscall(SYS_fcntl, file, what, with);
}
int fcntl(int file, int what, long with) { return answer(file, what, with); }
int fcntl64(int file, int what, long with) { return answer(file, what, with); }
int flock(int file, int what) { errno = ENOLCK; return -1; }
int fsync(int file) { errno = EINVAL; return -1; }
int link(const char *from, const char *to) { errno = EPERM; return -1; }
"""


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F125", "U5c a colleague goes on where the lock is another's", _colleague_goes_on)
    yield Trial("F126", "U6a complete cache that can only be read, videos copied", _complete_cache)
    yield Trial("F127", "U6b cache built under umask 077, fit by a colleague", _closed_cache)
    yield Trial("F128", "F1b no locks, no links, no flushing", _cannot)
    yield Trial("F129", "umask 002 and setgid: all files are the group's", _groups)


def as_user(uid: int, command: Sequence[str], before: str = "umask 022") -> list[str]:
    """A command as another user, in a shell that sets umask or limits before."""
    run = ["setpriv", f"--reuid={uid}", f"--regid={GROUP}", "--clear-groups"]
    run += ["env", "HOME=/", "bash", "-c", f'{before}; exec "$@"', "bash", *command]
    prefix = Path(sys.base_prefix)
    closed = [path for path in reversed(prefix.parents) if not path.stat().st_mode & stat.S_IXOTH]
    return ["unshare", "--mount", "sh", "-c", _SHOWN, "sh", str(closed[0]), str(prefix), *run] if closed else run


def opened(bench: Bench, name: str) -> Path:
    """A folder of the group's that all users reach."""
    bench.folder.chmod(0o755)
    folder = bench.new(name)
    os.chown(folder, OWNER, GROUP)
    folder.chmod(0o2775)
    return folder


def data(bench: Bench, command: str, *more: str) -> list[str]:
    """One of the commands of `petl-bench data`."""
    return [
        *(*PETL_BENCH, "data", command, "--config=data/msrvtt.yaml", "--data.partial=true"),
        *("--backbone=backbone/clip_tiny.yaml", "--workers=2", f"--data.root={bench.data}", *more),
    ]


def _colleague_goes_on(bench: Bench) -> str:
    runs = opened(bench, "runs")
    first = bench.run(as_user(OWNER, bench.fit(runs)), FAULT="error")
    if first.code != 1:
        return f"not tried: {first.text[-300:]}"
    for path in runs.rglob("*"):
        if path.is_dir():
            path.chmod(0o2775)
    return first_problem(completed(bench.run(as_user(COLLEAGUE, bench.fit(runs)))), resumed(runs), bench.compared(runs))


def _complete_cache(bench: Bench) -> str:
    folder = opened(bench, "cache")
    if problem := completed(bench.run(as_user(OWNER, data(bench, "cache", f"--cache={folder}")))):
        return problem
    folder.chmod(0o755)
    copy = Path(shutil.copytree(bench.data, folder.with_name(f"{folder.name}-copy")))
    again = bench.run(as_user(COLLEAGUE, data(bench, "cache", f"--cache={folder}", f"--data.root={copy}")))
    return first_problem(completed(again), _told(again, "0 decoded"), _told(again, "sources.jsonl: Permission denied"))


def _closed_cache(bench: Bench) -> str:
    folder = opened(bench, "cache")
    same = ("--config=fixture_linear", "--model.init_args.backbone=backbone/clip_tiny.yaml")  # as the run to come
    build = [*PETL_BENCH, "data", "cache", *same, f"--data.init_args.root={bench.data}"]
    if problem := completed(bench.run(as_user(OWNER, [*build, f"--cache={folder}", "--workers=2"], "umask 077"))):
        return problem
    fit = bench.fit(opened(bench, "runs"), f"--data.init_args.cache={folder}")
    return refused(bench.run(as_user(COLLEAGUE, fit)), 5, "sources.jsonl: cannot be read: Permission denied")


def _cannot(bench: Bench) -> str:
    folder, library = opened(bench, "cannot"), bench.new("library") / "cannot.so"
    source = library.with_suffix(".c")
    source.write_text(_CANNOT)
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not tried: gcc is needed ({error})"
    ended = bench.run(bench.fit(folder), LD_PRELOAD=str(library))
    told = [_told(ended, text) for text in ("has no locks", "cannot flush files")]
    return first_problem(completed(ended), *told, bench.compared(folder))


def _groups(bench: Bench) -> str:
    runs = opened(bench, "runs")
    if problem := completed(bench.run(as_user(OWNER, bench.fit(runs), "umask 002"))):
        return problem
    left = list(runs.rglob("*"))
    wrong = [path.name for path in left if path.stat().st_gid != GROUP or not path.stat().st_mode & stat.S_IWGRP]
    return f"not the group's: {wrong}" if wrong or len(left) < 8 else HELD


def _told(ended: Ended, text: str) -> str:
    return HELD if text in " ".join(ended.text.split()) else f"it does not say '{text}': {ended.text[-300:]}"
