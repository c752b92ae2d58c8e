"""Fixtures every test may use, the folder each of them runs in, and which of them may be skipped."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.needs import NEEDS
from tests.shared import REPOSITORY, SHARED

if TYPE_CHECKING:
    from petl_bench.backbones.clip.model import CLIP

# Before torch is imported: models this small gain nothing from threads, and a forked child of OpenMP's threads hangs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the next run finds what failed, whatever folder a test runs in.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(REPOSITORY / ".hypothesis"))
# Processes that tests start, in whatever folder, import this checkout and not what is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))

#: what a test's report says of it when it lacks what it needs
_LACKING = "lacking"
_needed: Counter[str] = Counter()
_unexpected: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    for marker, need in NEEDS.items():
        config.addinivalue_line("markers", f"{marker}: needs {need.what}; skipped without")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, need in NEEDS.items():
        if item.get_closest_marker(marker) and not need.is_here():
            item.user_properties.append((_LACKING, marker))
            pytest.skip(f"{marker}: {need.what} is not here")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    lacking = [str(marker) for key, marker in report.user_properties if key == _LACKING]
    _needed.update(lacking)
    if not lacking:
        _unexpected.append(f"{report.nodeid}: {_reason(report)}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _unexpected.append(f"{report.nodeid}: {_reason(report)}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one, but for those that need what no machine of ours has."""
    if os.environ.get("CI") and _unexpected and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    shown = ", ".join(f"{marker} {count} ({NEEDS[marker].what})" for marker, count in sorted(_needed.items()))
    terminalreporter.write_line(f"skipped for want of what they need: {shown or 'none'}")
    if os.environ.get("CI") and _unexpected:
        terminalreporter.write_line("unexpected skips:\n" + "\n".join(_unexpected), red=True)


@pytest.fixture(scope="session", autouse=True)
def outside_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The current folder of what tests share."""
    with contextlib.chdir(tmp_path_factory.mktemp("shared")):
        yield


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder of a test: empty, and its own. What lies in the checkout (`demo/`, `runs/`) is not seen."""
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as folder:
        monkeypatch.chdir(folder)  # undone after this fixture
        yield Path(folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"shared data not found at {SHARED}; set PETL_BENCH_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def tiny_clip() -> CLIP:
    """The tiny CLIP with random weights, for tests that do not change it."""
    from petl_bench.backbones.clip.model import CLIP  # here, so that tests without it do not wait for torch

    return CLIP("tiny", None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """What xdist sends must be UTF-8, whatever a test printed."""
    outcome = yield
    report = outcome.get_result()
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
