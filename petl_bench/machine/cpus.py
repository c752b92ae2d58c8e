"""How many CPUs this process may use, which in a container or a job is fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from petl_bench.machine import cgroups

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
    for version, folder in cgroups.folders("cpu", root):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or `max`: there is no limit
            quota = _quota(folder, version)
            if quota > 0:  # the first version writes -1 for none
                yield quota


def _quota(folder: Path, version: int) -> float:
    if version == 1:
        return int((folder / _QUOTA).read_text()) / int((folder / _PERIOD).read_text())
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)
