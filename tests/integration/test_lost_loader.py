"""A loader process that dies or hangs ends the run with the name of its file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from petl_bench.data.datasets import ClipLoader
from tests.integration.fixture_run import run

FILE = "video3.mp4"


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_the_file_is_named(
    fault: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = ClipLoader._decoded

    def lost(self: ClipLoader, path: Path, *arguments: Any) -> Any:
        if path.name == FILE:
            os._exit(3) if fault == "dies" else time.sleep(60)
        return decoded(self, path, *arguments)

    monkeypatch.setattr(ClipLoader, "_decoded", lost)
    more = ("--data.init_args.num_workers=1", "--data.init_args.loader_timeout=3")
    assert run("fit", "fixture_linear", dataset, tmp_path, *more) == 4
    assert FILE in capsys.readouterr().err
