"""The number of an error decides: what the machine lacks is never put down to a clip."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from torch.utils.data import Dataset

from petl_bench.data import verify
from petl_bench.data.build_cache import build
from petl_bench.data.cache import Clip, FrameCache
from petl_bench.data.clip_files import ClipFiles
from petl_bench.data.datasets import ClipLoader, EvaluationDataset, TrainingDataset
from petl_bench.data.manifest import read_manifest
from petl_bench.data.samples import Sample
from petl_bench.data.video import _to_rgb, open_video
from petl_bench.data.workers import CurrentFiles, LateLoader, as_loader, reporting_lost_workers
from petl_bench.errors import DataError, PetlBenchError, ResourceError, StorageError
from petl_bench.fixture import write_fixture
from petl_bench.inputs import FrameRule
from petl_bench.machine.resources import exhausted, exhausted_by_parser, exit_code_of, helper_lacked, helper_lacked_by
from petl_bench.machine.signals import end_helpers
from petl_bench.main import main
from petl_bench.storage.files import file_sha256
from tests.unit.data.test_datasets import SPEC
from tests.unit.data.test_video import write_clip

#: what runs out, and what the line about it names
RUN_OUT = {
    errno.EAGAIN: "ulimit -u",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "fs.file-max",
    errno.ENOMEM: "ulimit -v",
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota",
    errno.EIO: "storage",
    errno.ESTALE: "storage",
}
LOADER = ClipLoader(FrameRule(3, "uniform", None), 32, "shorter_side_crop", "pyav")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "plain.mp4")


def lacking(number: int, real: Callable[..., Any], of: str) -> Callable[..., Any]:
    """A call that fails for every file of a suffix."""

    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(of):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **kwargs)

    return call


@contextmanager
def unopened(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system opens no video."""
    with monkeypatch.context() as patched:
        patched.setattr(av, "open", lacking(number, av.open, ".mp4"))
        patched.setattr(Path, "open", lacking(number, Path.open, ".mp4"))
        yield


@pytest.mark.parametrize("number", RUN_OUT)
def test_no_video_is_bad_for_what_the_machine_lacks(number: int, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample("v", ("caption 0",))]
    evaluation = EvaluationDataset(samples, [clip], LOADER, SPEC, 6, tolerate=True)
    training = TrainingDataset([(samples[0], clip)], LOADER, True, SPEC, 6, 0, tolerate=True)
    with unopened(number, monkeypatch), warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (lambda: open_video(clip), lambda: evaluation[0], lambda: training[(0, 0)]):
            with pytest.raises(ResourceError, match=RUN_OUT[number]) as caught:
                read()
            assert not isinstance(caught.value, DataError)
            assert "\n" not in str(caught.value)
    assert evaluation[0].decoded


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_stills_and_digests(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    path = tmp_path / "still.png"
    Image.new("RGB", (8, 8)).save(path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lacking(number, Path.open, ".png"))
        patched.setattr(Image, "open", lacking(number, Image.open, ".png"))
        for read in (open_video, file_sha256):
            with pytest.raises(ResourceError, match=RUN_OUT[number]):
                read(path)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EIO])
def test_what_ffmpeg_says_of_a_damaged_file_stays_the_files(number: int, clip: Path) -> None:
    """It has the numbers of memory and of input and output for headers that lie, and files that are cut."""
    error = FFmpegError(number, os.strerror(number), str(clip))
    assert exhausted_by_parser(error, clip) is None
    assert exhausted(error, clip) is not None


def test_texts_of_libraries() -> None:
    said = {
        "can't start new thread": "ulimit -u",
        "Caught OSError in DataLoader worker process 0.\nOSError: [Errno 24] Too many open files": "ulimit -n",
        "unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)": "ulimit -n",
        "Error opening file: Too many open files (os error 24)": "ulimit -n",
        "received 0 items of ancdata": "ulimit -n",
        "std::bad_alloc": "ulimit -v",
        "libtorch_cpu.so: failed to map segment from shared object": "ulimit -v",
        "unable to write to file </torch_1>: No space left on device (28)": "no space left",
    }
    for text, told in said.items():
        assert told in str(exhausted(RuntimeError(text))), text
    for text in ("index 3 is out of bounds", "[Errno 2] No such file or directory: '24'", "exit code: 1"):
        assert exhausted(RuntimeError(text)) is None, text
    assert exhausted(ConnectionResetError(errno.ECONNRESET, "reset by peer")) is None  # of a network, not of a disk


def test_lost_helpers() -> None:
    assert "memory runs out" in str(helper_lacked(-signal.SIGKILL))
    for code in (1, 3, 139, -signal.SIGSEGV, -signal.SIGTERM):
        assert helper_lacked(code) is None
    for error, told in (
        (OSError(errno.EMFILE, ""), "ulimit -n"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ):
        assert told in str(helper_lacked(exit_code_of(error)))


def test_what_torch_says_of_lost_loaders() -> None:
    assert "memory runs out" in str(helper_lacked_by("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert "ulimit -n" in str(
        helper_lacked_by("DataLoader worker (pid 7) exited unexpectedly with exit code 184. More")
    )
    assert helper_lacked_by("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ") is None
    assert helper_lacked_by("DataLoader worker (pid 7) exited unexpectedly with exit code 1. More") is None


class _Clips(Dataset[int]):
    """Whose reader goes wrong as told."""

    def __init__(self, fault: Callable[[], None]) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        self.fault()
        return index


def _no_files() -> None:
    sys.excepthook(OSError, OSError(errno.EMFILE, "Too many open files"), None)


def _no_files_for_a_batch() -> None:
    Queue._on_queue_feeder_error(RuntimeError("in read-write mode: Too many open files (24)"), None)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (_no_files, ResourceError, "ulimit -n"),
        (_no_files_for_a_batch, ResourceError, "ulimit -n"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), ResourceError, "memory runs out"),
        (lambda: os._exit(3), DataError, "data verify"),
    ],
)
def test_a_loader_process_that_has_nothing_to_go_on_ends_the_run(
    fault: Callable[[], None], kind: type[PetlBenchError], told: str
) -> None:
    loader = LateLoader(_Clips(fault), batch_size=None, num_workers=1, worker_init_fn=as_loader)
    with pytest.raises(kind, match=told), reporting_lost_workers(CurrentFiles(1)):
        list(loader)


def test_clips_of_a_folder_that_cannot_be_listed_are_not_missing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(clip, tmp_path / "more" / "a.mp4")
    for number, kind in ((errno.EMFILE, ResourceError), (errno.EIO, StorageError)):
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", lacking(number, os.scandir, "more"))
            with pytest.raises(kind, match="more"):
                ClipFiles(tmp_path, (".mp4",), lambda path: path.stem)
    # Which may have nothing to do with the clips, as lost+found.
    monkeypatch.setattr(os, "scandir", lacking(errno.EACCES, os.scandir, "more"))
    files = ClipFiles(tmp_path, (".mp4",), lambda path: path.stem)
    assert files.hint("a") == "'more', a folder that cannot be listed"


# --- verify -----------------------------------------------------------------------------------------------------------


def verified(root: Path, *more: str) -> int:
    return main(
        [
            "data",
            "verify",
            "--config=data/msrvtt.yaml",
            f"--data.root={root}",
            "--data.partial=true",
            "--workers=2",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose clips are all known to be good."""
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=4, captions_per_video=1, size=64, seconds=1)
    assert verified(folder) == 0
    return folder


@pytest.mark.parametrize("end", ["out of threads", "killed", "no start"])
def test_no_verdict_changes_for_what_the_machine_lacks(
    end: str, looked_at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_manifest(looked_at / "manifest.jsonl", tolerate_cut=True)
    said = {"out of threads": ["begun", exhausted(OSError(errno.EAGAIN, ""))], "killed": ["begun"], "no start": []}
    real = verify._outcome

    def outcome(one: Any, limits: Any) -> Any:
        process: Any = SimpleNamespace(exitcode=-signal.SIGKILL, is_alive=bool, join=lambda: None)
        return real(one._replace(process=process), limits)

    monkeypatch.setattr(verify, "_heard", lambda pipe: said[end])
    monkeypatch.setattr(verify, "_outcome", outcome)
    assert verified(looked_at, "--recheck") == ResourceError.exit_code
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("petl-bench: error: ")
    assert "--workers" in told
    assert read_manifest(looked_at / "manifest.jsonl", tolerate_cut=True) == before


@pytest.mark.parametrize("error", [EOFError("unexpected EOF"), BlockingIOError(errno.EAGAIN, "")], ids=repr)
def test_helpers_that_cannot_be_started(
    error: Exception, looked_at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BaseProcess, "start", _raising(error))
    assert verified(looked_at, "--recheck") == ResourceError.exit_code
    assert "ulimit -u" in capsys.readouterr().err


def _raising(error: BaseException) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


def test_a_lower_limit_of_whoever_started_verify_stays(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: set_to.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10 * 2**30, 10 * 2**30))
    assert not verify._limit_memory(4096)  # more than there may be: setting it would be refused
    assert not set_to
    assert isinstance(verify._of_the_machine(-signal.SIGABRT, 4096), ResourceError)
    assert verify._of_the_machine(-signal.SIGSEGV, 4096) is None
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert verify._limit_memory(1)
    assert len(set_to) == 1
    assert verify._of_the_machine(-signal.SIGABRT, 1) is None


# --- cache ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "workers"), [(errno.EAGAIN, 0), (errno.EMFILE, 1), (errno.ENOSPC, 0)])
def test_caching_stops_for_what_the_machine_lacks(
    number: int, workers: int, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path, LOADER.profile)
    error = exhausted(OSError(number, os.strerror(number)), clip)
    monkeypatch.setattr(FrameCache, "_decode", _raising(error or AssertionError()))
    with pytest.raises(PetlBenchError, match=RUN_OUT[number]) as caught:
        build(cache, [Clip(clip)], workers=workers)
    end_helpers()
    assert not isinstance(caught.value, DataError)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EIO])
def test_a_cached_entry_is_not_damaged_for_it(
    number: int, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from petl_bench.data import cache as module

    cache = FrameCache(tmp_path, LOADER.profile)
    build(cache, [Clip(clip)], workers=0)
    monkeypatch.setattr(module.os, "preadv", _raising(OSError(number, os.strerror(number))))
    with pytest.raises(ResourceError, match=RUN_OUT[number]):
        cache.check(Clip(clip))


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_command_says_in_one_line_what_ran_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from petl_bench import main as module

    for error, told in (
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError(), "ulimit -v"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "ulimit -v"),
    ):
        monkeypatch.setattr(module, "_dispatch", _raising(error))
        assert main([]) == ResourceError.exit_code
        assert told in (err := capsys.readouterr().err)
        assert err.count("\n") == 1


def test_little_address_space_is_told_before_torch_is_imported() -> None:
    command = ["bash", "-c", 'ulimit -v 1000000; exec "$@"', "sh", sys.executable, "-m", "petl_bench", "plan"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert "ulimit -v is 1000000" in ended.stderr.splitlines()[0]
    assert "unexpected" not in ended.stderr


def test_no_thread_is_made_for_a_frame(clip: Path) -> None:
    """What a limit of threads would refuse."""
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    reformatter = VideoReformatter()  # which keeps its threads
    before = len(list(Path("/proc/self/task").iterdir()))
    _to_rgb(frame, reformatter)
    assert len(list(Path("/proc/self/task").iterdir())) == before
