"""How many CPUs this process may use, which in a container or a job is fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

#: of the first version of cgroups: microseconds of CPU time in each period
_QUOTA, _PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


def allowed_cpus(root: Path = Path("/")) -> int:
    """CPUs that the scheduler lets this process run on (taskset, cpusets), or fewer where a quota of time is smaller.

    A part of a CPU counts as one.

    Args:
        root: of the file system with `proc` and the mounted control groups.
    """
    return max(1, min([_scheduled(), *map(math.ceil, _quotas(root))]))


def _scheduled() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """CPUs' worth of time that each control group around this process gets, where it is limited."""
    for version, group in _groups(root):
        for mount, top in _mounts(root, version):
            for folder in _folders(mount, top, group):
                with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or `max`: there is no limit
                    quota = _quota(folder, version)
                    if quota > 0:  # the first version writes -1 for none
                        yield quota


def _groups(root: Path) -> Iterator[tuple[int, str]]:
    """The groups of this process that share CPU time out, by version."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if (number, controllers) == ("0", ""):
            yield 2, group
        elif "cpu" in controllers.split(","):
            yield 1, group


def _mounts(root: Path, version: int) -> Iterator[tuple[Path, str]]:
    """Where the groups are mounted, and which of them is on top there (a container often sees its own one only)."""
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        name, _, options = kind.partition(" ")
        if name == "cgroup2" if version == 2 else name == "cgroup" and "cpu" in options.split()[-1].split(","):
            _, _, _, top, mount, *_ = fields.split()
            yield root / mount.lstrip("/"), top


def _folders(mount: Path, top: str, group: str) -> Iterator[Path]:
    """A group's folder and those above it: all their limits hold."""
    path = PurePosixPath(group)
    if path.is_relative_to(top):
        path = path.relative_to(top)
    names = [part for part in path.parts if part not in ("/", "..")]
    yield from (mount.joinpath(*names[:count]) for count in range(len(names), -1, -1))


def _quota(folder: Path, version: int) -> float:
    if version == 1:
        return int((folder / _QUOTA).read_text()) / int((folder / _PERIOD).read_text())
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
