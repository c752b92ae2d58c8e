"""`petl-bench data verify` and the manifest that training is held to."""

from __future__ import annotations

import multiprocessing.forkserver
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.custom import Custom
from petl_bench.data import verify
from petl_bench.data.manifest import Entry, read_manifest, write_manifest
from petl_bench.data.verify import Limits, Task, inspect_all
from petl_bench.errors import DataError
from petl_bench.fixture import write_fixture
from petl_bench.main import main
from tests.stops import group_trap, in_child


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=4, captions_per_video=1, size=64, seconds=1)
    return folder


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


def run(root: Path, *more: str) -> int:
    options = ["--config=data/msrvtt.yaml", f"--data.root={root}", "--data.partial=true", "--workers=2", *more]
    return main(["data", "verify", *options])


def test_good_clips(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    assert "12 ok, 0 bad, 0 missing, 0 extra" in capsys.readouterr().out
    entries = read_manifest(root / "manifest.jsonl")
    entry = entries["video3"]
    path = root / entry.path
    assert (entry.frames, entry.width, entry.height, entry.fps, entry.codec) == (6, 64, 64, 6.0, "h264")
    assert (entry.bytes, entry.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_bad_missing_and_extra_clips_are_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = root / "videos"
    (videos / "video1.mp4").write_bytes(b"not a video")
    (videos / "video2.mp4").unlink()
    shutil.copy(videos / "video0.mp4", videos / "more.mp4")
    assert run(root) == 4
    captured = capsys.readouterr()
    assert "10 ok, 1 bad, 1 missing, 1 extra" in captured.out
    assert "'videos/video1.mp4' (" in captured.err
    assert "'video2' (no file)" in captured.err
    statuses = {entry.id: entry.status for entry in read_manifest(root / "manifest.jsonl").values()}
    assert (statuses["video1"], statuses["video2"], statuses["more"]) == ("bad", "missing", "extra")


def test_only_new_and_changed_files_are_looked_at_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[list[str]] = []

    def spy(tasks: list[Task], *rest: Any) -> Any:
        looked.append([task.id for task in tasks])
        return inspect_all(tasks, *rest)

    monkeypatch.setattr(verify, "inspect_all", spy)
    assert run(root) == 0
    # What a killed run leaves: some lines, the last one cut.
    path = root / "manifest.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    os.utime(root / "videos" / "video0.mp4")
    assert run(root) == 0
    assert run(root, "--recheck") == 0
    whole, again, recheck = map(set, looked)
    assert len(whole) == len(recheck) == 12
    assert "video0" in again
    assert len(again) == 12 - 5 + 1


def test_a_signal_to_the_whole_group_keeps_what_was_found(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def prepare() -> None:
        multiprocessing.forkserver._forkserver.__init__()  # type: ignore[attr-defined,misc]  # that of this process is not its child's
        group_trap(Entry, "line", 4, signal.SIGUSR1)()

    assert in_child(lambda: run(root), prepare) == 138
    path = root / "manifest.jsonl"
    told = f"petl-bench: stopped by SIGUSR1; what was found is kept in {path}: the same command goes on from there\n"
    captured = capfd.readouterr().err
    assert told in captured
    assert "Traceback" not in captured
    assert len(read_manifest(path)) == 3
    assert run(root) == 0
    assert "12 ok, 0 bad, 0 missing, 0 extra" in capfd.readouterr().out


def _hang(*_: Any) -> None:
    time.sleep(100)


def _die(*_: Any) -> None:
    os._exit(9)


def _eat(*arguments: Any) -> None:
    verify._limit_memory(arguments[-1])
    bytearray(3 * 1024**3)


@pytest.mark.parametrize(
    ("fault", "reason"), [(_hang, "takes more than 8 s"), (_die, "exit code 9"), (_eat, "exit code 1")]
)
def test_a_file_that_takes_its_process_along_is_bad(
    root: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, reason: str
) -> None:
    monkeypatch.setattr(verify, "_inspect", fault)
    path = root / "videos" / "video0.mp4"
    (entry,) = inspect_all([Task("video0", path, root)], Limits(1, 8, 1))
    assert entry.status == "bad"
    assert reason in entry.reason


def test_training_is_held_to_the_manifest(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    with (root / "videos" / "video3.mp4").open("ab") as file:
        file.write(b"more")
    entries = read_manifest(root / "manifest.jsonl")
    entries["video4"] = Entry("video4", "videos/video4.mp4", "bad", "frame 3 is damaged")
    write_manifest(root / "manifest.jsonl", entries.values())
    options = [
        "--config=fixture_linear",
        "--model.init_args.backbone=backbone/clip_tiny.yaml",
        f"--data.init_args.root={root}",
        f"--data.init_args.manifest={root / 'manifest.jsonl'}",
        "--data.init_args.batch_size=4",
        "--data.init_args.num_workers=0",
        "--trainer.fast_dev_run=1",
        f"--runs_dir={tmp_path / 'runs'}",
    ]
    capsys.readouterr()
    assert main(["fit", *options]) == 4
    message = capsys.readouterr().err
    assert "'video3' (changed since it was verified)" in message
    assert "'video4' (frame 3 is damaged)" in message
    assert main(["fit", *options, "--data.init_args.bad_videos=tolerate"]) == 0


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"manifest\.jsonl, line 1"):
        read_manifest(path)
    with pytest.raises(DataError, match="No such file"):
        read_manifest(tmp_path / "nowhere.jsonl")


def test_no_folder_of_clips(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--data.videos=nowhere") == 4
    assert "no folder of clips" in capsys.readouterr().err


def test_real_clips(shared: Path) -> None:
    """Every clip of the collection is read right, but the one that is damaged."""
    root = shared / "data"
    files = [path for folder in ("odd_videos", "msrvtt_mini/videos") for path in (root / folder).rglob("*.m*")]
    tasks = [Task(path.name, path, root) for path in files]
    entries = {entry.id: entry for entry in inspect_all(tasks, Limits(2, 60, 8), "decord")}
    assert len(entries) == len(files) >= 34
    assert {name for name, entry in entries.items() if entry.status != "ok"} == {"corrupted.mp4"}
    assert {name for name, entry in entries.items() if entry.warnings} == {"av1_video.mkv"}  # which decord cannot read
    assert {entry.rate for entry in entries.values() if entry.status == "ok"} == {"constant"}
    turned = {name: (entry.width, entry.height) for name, entry in entries.items() if entry.rotation}
    assert turned == {"video_90.mov": (320, 568), "video_180.mov": (568, 320), "video_270.mov": (320, 568)}
    assert (entries["nasa_13013.mp4"].frames, entries["nasa_13013.mp4"].width) == (
        390,
        480,
    )  # the better of its streams


def test_the_files_of_own_clips_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One stem in two folders, each in another split; another file of that stem that no split names; a picture."""
    source = tmp_path / "source"
    write_fixture(source, train_videos=8, test_videos=4, captions_per_video=1, size=64, seconds=1)
    for number, name in enumerate(("a/x.mp4", "b/x.mp4", "x.mp4", "y.mp4")):
        (tmp_path / "data" / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "videos" / f"video{number}.mp4", tmp_path / "data" / "videos" / name)
    Image.new("RGB", (64, 64)).save(tmp_path / "data" / "videos" / "z.png")
    (tmp_path / "data" / "train.csv").write_text("video,caption\na/x.mp4,one\nz,two\n")
    (tmp_path / "data" / "test.csv").write_text("video,caption\nb/x,three\ny.mkv,four\n")
    options = ["--config=data/custom.yaml", f"--data.root={tmp_path / 'data'}", "--workers=2"]
    assert main(["data", "verify", *options]) == 0
    path = tmp_path / "data" / "manifest.jsonl"
    found = {entry.path: (entry.id, entry.status) for entry in read_manifest(path).values()}
    assert found == {
        "videos/a/x.mp4": ("a__x.mp4", "ok"),
        "videos/b/x.mp4": ("b__x", "ok"),
        "videos/x.mp4": ("x", "extra"),
        "videos/y.mp4": ("y", "ok"),
        "videos/z.png": ("z", "ok"),
    }
    data = Custom(tmp_path / "data", manifest=path, bad_videos="tolerate")
    assert [p and p.name for p in data._find("test", data.samples("test"))] == ["x.mp4", "y.mp4"]
    # Ids that change with other rows, and files that are moved, leave what was found as it is.
    (tmp_path / "data" / "train.csv").write_text("video,caption\nz,two\n")
    (tmp_path / "data" / "videos" / "deep").mkdir()
    (tmp_path / "data" / "videos" / "y.mp4").rename(tmp_path / "data" / "videos" / "deep" / "y.mp4")
    data = Custom(tmp_path / "data", manifest=path, bad_videos="tolerate")
    assert [sample.video for sample in data.samples("test")] == ["x", "y"]
    assert [p and p.name for p in data._find("test", data.samples("test"))] == ["x.mp4", "y.mp4"]
    (tmp_path / "data" / "videos" / "more").mkdir()
    shutil.copy(source / "videos" / "video5.mp4", tmp_path / "data" / "videos" / "more" / "y.mp4")
    capsys.readouterr()
    assert main(["data", "verify", *options]) == 4
    told = capsys.readouterr().err
    assert "'y' ('y.mkv' may be " in told
    assert "more/y.mp4" in told
