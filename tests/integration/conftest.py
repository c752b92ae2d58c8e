"""A dataset that all integration tests of a process share."""

from pathlib import Path

import pytest

from petl_bench.fixture import write_fixture


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=16, test_videos=4, captions_per_video=2)
    return folder
