"""What the record of a run says of its machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from petl_bench.runs.environment import _checkout, _driver

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


def test_only_what_is_code_makes_a_checkout_dirty(tmp_path: Path) -> None:
    package = tmp_path / "petl_bench"
    for name in ("petl_bench/__init__.py", "methods/lora.py", "datamodules/a.py", "configs/a.yaml", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "all")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    (tmp_path / ".venv").symlink_to("/nowhere")
    clean = _checkout(package)
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["diff_sha256"]) == (False, None)
    (tmp_path / "methods" / "mine.py").write_text("x", encoding="utf-8")  # which Python can import
    assert _checkout(package)["dirty"]
    (tmp_path / "methods" / "mine.py").unlink()
    (tmp_path / "configs" / "a.yaml").write_text("x", encoding="utf-8")
    assert _checkout(package)["dirty"]
    assert _checkout(package)["diff_sha256"]
