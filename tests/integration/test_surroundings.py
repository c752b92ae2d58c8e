"""Tests see nothing of the checkout, and CI lets no test be skipped but for want of what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import REPOSITORY

NEEDY = """
import pytest

@pytest.mark.needs_cuda
def test_gpu(): pass

@pytest.mark.needs_cuda
def test_another(): pass

def test_here(): pass
"""
SKIPPED = """
import pytest

def test_here(): pass

def test_by_itself(): pytest.skip("no reason of ours")

def test_claims(): pytest.skip("needs_cuda: an NVIDIA GPU is not here")

@pytest.mark.skip(reason="no reason of ours")
def test_by_a_marker(): pass

@pytest.fixture
def lacking(): pytest.skip("no reason of ours")

def test_by_a_fixture(lacking): pass
"""
SKIPPED_MODULE = "import pytest\n\npytest.importorskip('no_such_module')\n"


def test_the_current_folder_is_empty_and_outside_the_checkout() -> None:
    assert not list(Path.cwd().iterdir())
    assert REPOSITORY not in (Path.cwd(), *Path.cwd().parents)


@pytest.fixture(scope="module")
def current_folder_of_a_module() -> Path:
    return Path.cwd()


def test_what_tests_share_is_made_outside_the_checkout(current_folder_of_a_module: Path) -> None:
    assert REPOSITORY not in (current_folder_of_a_module, *current_folder_of_a_module.parents)


def test_a_process_that_a_test_starts_imports_this_checkout() -> None:
    code = "import petl_bench, methods, datamodules; print(petl_bench.__file__, methods.__file__, datamodules.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [Path(path).parent.parent for path in found] == [REPOSITORY] * 3


def pytest_on(folder: Path, *modules: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs scratch tests on two processes under the conftest.py of the suite, as if there was no GPU."""
    tests = folder / "tests"
    tests.mkdir()
    for name in ("conftest.py", "needs.py", "shared.py"):
        shutil.copy(REPOSITORY / "tests" / name, tests)
    for number, code in enumerate(modules):
        (tests / f"test_{number}.py").write_text(code, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --import-mode=importlib\npythonpath = .\n")
    variables = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTHONPATH")}
    variables |= {"CUDA_VISIBLE_DEVICES": ""} | environment
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_what_needs_a_gpu_is_skipped_and_counted(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, NEEDY, CI="true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped for want of what they need: needs_cuda 2 (an NVIDIA GPU)" in done.stdout
    assert "1 passed, 2 skipped" in done.stdout


@pytest.mark.parametrize("ci", [True, False])
def test_other_skips_fail_in_ci_only(ci: bool, tmp_path: Path) -> None:
    done = pytest_on(tmp_path, SKIPPED, SKIPPED_MODULE, **({"CI": "true"} if ci else {}))
    assert done.returncode == int(ci), done.stdout + done.stderr
    assert "skipped for want of what they need: none" in done.stdout
    names = ("test_by_itself", "test_claims", "test_by_a_marker", "test_by_a_fixture", "tests/test_1.py")
    assert ("unexpected skips:" in done.stdout) == ci
    told = done.stdout.partition("unexpected skips:")[2]
    assert all((name in told) == ci for name in names)
