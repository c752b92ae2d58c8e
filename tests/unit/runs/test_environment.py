"""What the record of a run says of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from petl_bench.runs.environment import _driver

#: as NVIDIA's two kernel modules write it
VERSIONS = {
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n": "535.129.03",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n": "580.65.06",
    "GCC version:  gcc version 12.3.0 \n": None,
    "": None,
}


@pytest.mark.parametrize(("text", "version"), VERSIONS.items())
def test_version_of_the_driver(text: str, version: str | None, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text, encoding="utf-8")
    assert _driver(tmp_path / "version") == version


def test_no_driver(tmp_path: Path) -> None:
    assert _driver(tmp_path / "absent") is None
