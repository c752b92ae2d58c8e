"""The CPUs that a process may use: affinity and quotas of control groups, from made files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from petl_bench.machine.cpus import allowed_cpus

UNIFIED = "30 24 0:26 {top} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
CPU = "33 24 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = (
    "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "23 22 0:5 / /proc rw - proc proc rw\n"
    "31 24 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a machine whose scheduler lets this process run on 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def made(root: Path, groups: str, mounts: str, **quotas: str) -> int:
    """What is allowed where these files lie below `/sys/fs/cgroup`, by folder: `cpu.max`, or quota and period."""
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(OTHERS + mounts)
    for folder, text in quotas.items():
        path = root / "sys/fs/cgroup" / folder.replace("__", "/").strip("/")
        path.mkdir(parents=True, exist_ok=True)
        if text.count(" of ") == 0:
            (path / "cpu.max").write_text(text + "\n")
            continue
        for name, value in zip(("quota", "period"), text.split(" of "), strict=True):
            (path / f"cpu.cfs_{name}_us").write_text(value + "\n")
    return allowed_cpus(root)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", 16),
        ("50000 25000", 2),
        ("", 16),
        ("0 0", 16),
    ],
)
def test_a_quota_of_time_counts_in_whole_cpus(quota: str, expected: int, root: Path) -> None:
    assert made(root, "0::/job\n", UNIFIED.format(top="/"), __job=quota) == expected


def test_the_smallest_limit_around_a_process_holds(root: Path) -> None:
    quotas = {"a": "800000 100000", "a__b": "300000 100000", "a__b__c": "max 100000"}
    assert made(root, "0::/a/b/c\n", UNIFIED.format(top="/"), **quotas) == 3


def test_a_container_sees_its_own_group_on_top(root: Path) -> None:
    (root / "sys/fs/cgroup").mkdir(parents=True)
    assert made(root, "0::/\n", UNIFIED.format(top="/"), __="200000 100000") == 2
    # The same without a name space of its own: the host's name of the group, which is not there.
    assert made(root, "0::/docker/8f3a\n", UNIFIED.format(top="/docker/8f3a")) == 2
    assert made(root, "0::/../..\n", UNIFIED.format(top="/")) == 2


def test_the_first_version(root: Path) -> None:
    groups = "12:cpuset:/\n5:cpu,cpuacct:/slurm/job_1/step_0\n1:name=systemd:/user.slice\n0::/user.slice\n"
    quotas = {"cpu,cpuacct__slurm__job_1": "600000 of 100000", "cpu,cpuacct__slurm__job_1__step_0": "-1 of 100000"}
    assert made(root, groups, CPU.format(top="/") + UNIFIED.format(top="/"), **quotas) == 6


def test_a_container_of_the_first_version(root: Path) -> None:
    quotas = {"cpu,cpuacct": "250000 of 100000"}
    assert made(root, "4:cpuacct,cpu:/docker/8f3a\n", CPU.format(top="/docker/8f3a"), **quotas) == 3


def test_without_groups_the_scheduler_decides(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_cpus(root) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5}, raising=False)
    assert allowed_cpus(root) == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert allowed_cpus(root) == (os.cpu_count() or 1)
