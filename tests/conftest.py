"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from petl_bench.backbones.clip import CLIP

REPOSITORY = Path(__file__).parent.parent

# Before torch is imported: models this small gain nothing from threads, and a forked child of OpenMP's threads hangs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: tests that may be skipped in CI: nothing but what needs a GPU
_MAY_SKIP = ("needs a GPU",)
_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(allowed in reason for allowed in _MAY_SKIP):
            _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one: golden vectors and real clips are there."""
    if os.environ.get("CI") and _skipped and not hasattr(session.config, "workerinput"):
        print("\nunexpected skips:\n" + "\n".join(_skipped))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def shared_folder() -> Path:
    """The folder with golden vectors and real clips; it lies beside the checkout and is never part of it."""
    return Path(os.environ.get("PETL_BENCH_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"shared data not found at {folder}; set PETL_BENCH_SHARED")
    return folder


@pytest.fixture(scope="session")
def tiny_clip() -> CLIP:
    """The tiny CLIP with random weights, for tests that do not change it."""
    from petl_bench.backbones.clip import CLIP  # here, so that tests without it do not wait for torch

    return CLIP("tiny", None)
