"""Datasets that all integration tests of a process share."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from petl_bench.fixture import WRITERS, write_fixture


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=16, test_videos=4, captions_per_video=2)
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Callable[[str], Path]:
    """Generated data in a layout, written when it is first asked for."""

    @functools.cache
    def write(layout: str) -> Path:
        if WRITERS[layout] is write_fixture:
            return dataset
        folder = tmp_path_factory.mktemp("data") / layout
        WRITERS[layout](folder, train_videos=24, test_videos=4)
        return folder

    return write
