"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def shared_folder() -> Path:
    """The folder with golden vectors and real clips; it lies beside the checkout and is never part of it."""
    return Path(os.environ.get("PETL_BENCH_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"shared data not found at {folder}; set PETL_BENCH_SHARED")
    return folder
