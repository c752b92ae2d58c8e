"""The clips, written once."""

from pathlib import Path

import pytest

from tests.regression.clips import write_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regression") / "clips"
    write_clips(folder)
    return folder
