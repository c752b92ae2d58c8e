"""What a run leaves is the group's where the umask says so; another user's file stops nobody who may write there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from petl_bench.data.build_cache import build
from petl_bench.data.cache import Clip, FrameCache
from petl_bench.data.datasets import ClipLoader
from petl_bench.data.manifest import Entry, write_manifest
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.inputs import FrameRule
from petl_bench.report.collect import collect
from petl_bench.runs.earlier import _is_at_work, lock_of
from petl_bench.runs.folder import locked
from petl_bench.storage import files, locks
from petl_bench.storage.adapters import Adapter, read_adapter, write_adapter
from petl_bench.storage.checkpoints import SafeCheckpointIO, resumable
from petl_bench.storage.files import write_atomically
from tests.unit.data.test_video import write_clip
from tests.users import COLLEAGUE, GROUP, OWNER, as_user, shared_folder

needs_root = pytest.mark.needs_root
LOADER = ClipLoader(FrameRule(3, "uniform", None), 32, "shorter_side_crop", "pyav")


@pytest.fixture
def folder() -> Iterator[Path]:
    with shared_folder() as found:
        yield found


@pytest.fixture
def clip(folder: Path) -> Path:
    path = write_clip(folder / "plain.mp4")
    path.chmod(0o644)
    return path


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    files._warned.clear()


def write_everything(folder: Path, clip: Path) -> None:
    """One file of each kind that the suite writes."""
    write_atomically(folder / "result.json", "{}")
    write_adapter(folder / "adapter.safetensors", Adapter({"a": torch.zeros(1)}, {}))
    SafeCheckpointIO().save_checkpoint({"state_dict": {}}, folder / "last.ckpt")
    write_manifest(folder / "manifest.jsonl", [Entry("v", "v.mp4", "ok")])
    with locked(folder / "seed0"):
        pass
    build(FrameCache(folder / "cache", LOADER.profile), [Clip(clip)], workers=0)


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids="{:03o}".format)
def test_umask_and_group_of_all_files(umask: int, folder: Path, clip: Path) -> None:
    as_user(OWNER, partial(write_everything, folder, clip), umask)
    left = [path for path in folder.rglob("*") if path != clip]
    assert {path.name for path in left} >= {"profile.json", "sources.jsonl", ".seed0.lock", "last.ckpt.sha256"}
    for path in left:
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path
        assert (status.st_uid, status.st_gid) == (OWNER, GROUP), path
        assert not path.is_dir() or status.st_mode & stat.S_ISGID, path
    # Again, by the colleague: all of it can be replaced where the folders can be written to.
    if umask == 0o002:
        as_user(COLLEAGUE, partial(write_everything, folder, clip), umask)
        assert resumable(folder)


# --- locks ------------------------------------------------------------------------------------------------------------


def hold(folder: Path) -> str:
    """How an attempt to work in a folder of a run ends."""
    try:
        with locked(folder):
            return "held"
    except PetlBenchError as error:
        return str(error)


@needs_root
def test_the_lock_file_of_another_user(folder: Path) -> None:
    run = folder / "seed0"
    as_user(OWNER, partial(hold, run))
    assert stat.S_IMODE(lock_of(run).stat().st_mode) == 0o644
    assert as_user(COLLEAGUE, partial(hold, run)) == "held"

    def both(first: int, second: int) -> tuple[str, bool]:
        """What the second user meets while the first is at work; each may be the owner of the lock file."""

        def work() -> str:
            with locked(run):
                (folder / "at work").touch()
                while (folder / "at work").exists():
                    pass
            return "held"

        child = os.fork()
        if not child:
            os._exit(as_user(first, work) != "held")
        while not (folder / "at work").exists():
            pass
        try:
            return as_user(second, partial(hold, run)), as_user(second, partial(_is_at_work, run))
        finally:
            (folder / "at work").unlink()
            assert os.waitpid(child, 0)[1] == 0

    for first, second in ((OWNER, COLLEAGUE), (COLLEAGUE, OWNER), (COLLEAGUE, COLLEAGUE), (COLLEAGUE, COLLEAGUE + 1)):
        told, at_work = both(first, second)
        assert "another process is at work" in told
        assert at_work
    assert not as_user(COLLEAGUE, partial(_is_at_work, run))


@needs_root
def test_a_lock_file_that_cannot_be_opened_is_named(folder: Path) -> None:
    run = folder / "seed0"
    as_user(OWNER, partial(hold, run), 0o077)
    assert f"the lock file {lock_of(run)} cannot be opened: Permission denied" in as_user(COLLEAGUE, partial(hold, run))
    folder.chmod(0o755)
    assert f"cannot write to {folder}: Permission denied" in as_user(COLLEAGUE, partial(hold, folder / "seed1"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_stops_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    monkeypatch.setattr(fcntl, "fcntl", failing(number))
    with pytest.warns(UserWarning, match="no locks") as told, locked(tmp_path / "seed0"), locked(tmp_path / "seed0"):
        pass
    assert len(told) == 1
    assert not _is_at_work(tmp_path / "seed0")


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EAGAIN, UsageError, "another process is at work"),
        (errno.EACCES, UsageError, "another process is at work"),
        (errno.EIO, PetlBenchError, r"\.seed0\.lock.*Input/output error"),
        (errno.ESTALE, PetlBenchError, r"\.seed0\.lock"),
        (errno.EPERM, CheckpointError, r"\.seed0\.lock"),
    ],
)
def test_the_number_decides_what_a_lock_that_is_refused_means(
    number: int, kind: type[Exception], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    with pytest.raises(kind, match=told), locked(tmp_path / "seed0"):
        pass


def failing(number: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


# --- caches -----------------------------------------------------------------------------------------------------------


def cached(folder: Path, clip: Path) -> tuple[list[str], list[str]]:
    """What became of a clip, and what was told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        outcomes = build(FrameCache(folder / "cache", LOADER.profile), [Clip(clip)], workers=0)
    return [outcome.did for outcome in outcomes], [str(warning.message) for warning in told]


@needs_root
def test_a_complete_cache_needs_no_write(folder: Path, clip: Path) -> None:
    assert as_user(OWNER, partial(cached, folder, clip)) == (["decoded"], [])
    before = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*")}
    assert as_user(COLLEAGUE, partial(cached, folder, clip)) == (["found"], [])
    copy = Path(shutil.copy(clip, folder / "copy.mp4"))
    found, told = as_user(COLLEAGUE, partial(cached, folder, copy))
    assert found == ["found"]
    assert len(told) == 1
    assert "sources.jsonl: Permission denied" in told[0]
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*")} == before
    other = write_clip(folder / "other.mp4", rotation=90)
    with pytest.raises(CheckpointError, match=r"cache.*Permission denied"):
        as_user(COLLEAGUE, partial(cached, folder, other))


@needs_root
def test_a_list_of_another_user_is_added_to_where_the_folder_is_the_groups(folder: Path, clip: Path) -> None:
    as_user(OWNER, partial(cached, folder, clip))
    for path in [folder / "cache", *(folder / "cache").rglob("*")]:
        if path.is_dir():
            path.chmod(0o2775)
    other = write_clip(folder / "other.mp4", rotation=90)
    assert as_user(COLLEAGUE, partial(cached, folder, other)) == (["decoded"], [])
    (sources,) = folder.rglob("sources.jsonl")
    assert sources.read_text().count("sha256") == 2
    assert stat.S_IMODE(sources.stat().st_mode) == 0o644
    assert as_user(OWNER, partial(cached, folder, clip)) == (["found"], [])


@needs_root
@pytest.mark.parametrize("closed", ["sources.jsonl", "entry", "folder"])
def test_what_cannot_be_read_of_a_cache_is_named(closed: str, folder: Path, clip: Path) -> None:
    as_user(OWNER, partial(cached, folder, clip))
    (entry,) = folder.rglob("*.safetensors")
    path = {"sources.jsonl": entry.parents[1] / closed, "entry": entry, "folder": folder / "cache"}[closed]
    path.chmod(0o700 if closed == "folder" else 0o600)
    cache = FrameCache(folder / "cache", LOADER.profile)

    def read() -> None:
        cache.require([Clip(clip)])
        cache.read(Clip(clip), lambda frames, fps, times: torch.arange(1).numpy())

    with pytest.raises(CheckpointError, match=rf"{path}.*Permission denied.*chmod") as caught:
        as_user(COLLEAGUE, read)
    assert caught.value.exit_code == 5


@needs_root
def test_runs_that_cannot_be_read_are_not_left_out_without_a_word(folder: Path) -> None:
    (folder / "a").mkdir(mode=0o700)
    (folder / "b").mkdir()
    (folder / "b" / "result.json").write_text("{}")
    (folder / "b" / "result.json").chmod(0o600)
    _, rejected = as_user(COLLEAGUE, partial(collect, [folder]))
    assert [one.path.name for one in rejected] == ["a", "result.json"]
    assert all("Permission denied" in one.reason for one in rejected)


@needs_root
def test_an_adapter_and_a_run_of_another_user_that_are_closed(folder: Path) -> None:
    (folder / "seed0").mkdir(mode=0o700)
    (folder / "seed0" / "adapter.safetensors").touch()
    path = folder / "seed0" / "adapter.safetensors"
    with pytest.raises(CheckpointError, match=rf"no adapter file at {path}, which .*Permission denied"):
        as_user(COLLEAGUE, partial(read_adapter, path))


# --- what file systems cannot do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_flushing_is_done_without(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.warns(UserWarning, match="cannot flush"):
        write_atomically(tmp_path / "a", "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        SafeCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "last.ckpt", "last.ckpt.sha256"}


@pytest.mark.parametrize(("number", "told"), [(errno.EIO, "Input/output"), (errno.ENOSPC, "No space")])
def test_a_disk_that_fails_is_no_disk_that_cannot(
    number: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(PetlBenchError, match=told) as caught:
        write_atomically(tmp_path / "a", "a")
    assert caught.value.exit_code == 5
    assert not list(tmp_path.iterdir())


def test_a_server_that_lost_sight_of_a_file_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        asked.append(self)
        if len(asked) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "a", "a")
    assert (tmp_path / "a").read_text() == "a"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EXDEV])
def test_entries_are_taken_over_without_links(
    number: int, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path, LOADER.profile)
    build(cache, [Clip(clip)], workers=0)
    cache.folder.rename(cache.former)
    monkeypatch.setattr(os, "link", failing(number))
    assert [outcome.did for outcome in build(cache, [Clip(clip)], workers=0)] == ["kept"]


def test_unknown_room_is_no_lack_of_it(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for usage in (lambda folder: shutil._ntuple_diskusage(0, 0, 0), failing(errno.ENOSYS)):  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", usage)
        SafeCheckpointIO().save_checkpoint({"state_dict": {"a": torch.zeros(9)}}, tmp_path / "last.ckpt")
    build(FrameCache(tmp_path, LOADER.profile), [Clip(clip)], workers=0)


def test_a_checkpoint_that_there_are_no_files_to_open_for_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        SafeCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
    monkeypatch.setattr(torch, "load", failing(errno.EMFILE))
    with pytest.raises(PetlBenchError, match="ulimit -n"):  # not: going back to the one before
        SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_locks_are_gone_with_the_file_that_holds_them(tmp_path: Path) -> None:
    assert not locks.is_held(tmp_path / "none")
    with locks.file_lock(tmp_path / "lock"):
        assert not as_user_sees(tmp_path / "lock")
    assert as_user_sees(tmp_path / "lock")


def as_user_sees(lock: Path) -> bool:
    """Whether another process finds a lock free."""
    child = os.fork()
    if not child:
        os._exit(locks.is_held(lock))
    return os.waitpid(child, 0)[1] == 0
