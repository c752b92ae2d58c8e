"""What a machine lacks, in one line."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from petl_bench.errors import PetlBenchError, chain
from petl_bench.machine.limits import fault_of_machine, prepare, require_temporary_folder


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 5, "TMPDIR"),
        (RuntimeError("Could not determine home directory."), 2, "HOME"),
        (AssertionError("daemonic processes are not allowed to have children"), 2, "num_workers 0"),
        (ModuleNotFoundError("No module named 'timm.models'", name="timm.models"), 2, "package timm"),
        (ImportError("cannot import name 'a' from 'rich' (x.py)", name="rich"), 2, "package rich"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 2, "out of memory"),
        (ImportError("libGL.so.1: cannot open shared object file: No such file"), 2, "libGL.so.1"),
        (RuntimeError("unable to open shared memory object </torch_1_2_0> in read-write mode"), 4, "/dev/shm"),
        (RuntimeError("can't start new thread"), 2, "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 2, "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files", "a.json"), 2, "ulimit -n"),
        (MemoryError(), 2, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/a.json"), 5, "/data/a.json: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/a", None, "/b"), 5, "/a and /b: Read-only"),
    ],
)
def test_what_the_machine_lacks_is_told(error: Exception, code: int, told: str) -> None:
    found = fault_of_machine(error)
    assert found is not None
    assert found.exit_code == code
    assert told in str(found)
    wrapped = ValueError("what a library makes of it")
    wrapped.__context__ = error
    assert str(fault_of_machine(wrapped)) == str(found)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a fault of ours"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"),
        RuntimeError("shapes differ"),
    ],
)
def test_faults_of_ours_stay_ours(error: Exception) -> None:
    assert fault_of_machine(error) is None


def test_an_error_among_its_own_causes_is_looked_at_once() -> None:
    """`raise cause from error` makes such a circle, where the error came from the cause."""
    first, second = ValueError("a fault of ours"), TypeError("what a library makes of it")
    first.__cause__, second.__cause__ = second, first
    assert fault_of_machine(first) is None
    assert list(chain(first)) == [first, second]


def test_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    prepare()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_dir()
    with pytest.raises(PetlBenchError, match="set TMPDIR"):
        require_temporary_folder()
    with pytest.raises(OSError, match="temporary") as caught:
        tempfile.mkdtemp()
    assert "TMPDIR" in str(fault_of_machine(caught.value))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


def test_the_current_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(PetlBenchError, match="cd to another"):
        prepare()
