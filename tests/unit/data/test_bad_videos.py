"""Bad files are refused with their reason: no hang, no death of the process, nothing read wrong in silence."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from petl_bench.data.verify import Limits, Task, inspect_all
from petl_bench.data.video import VideoError, open_video
from tests.unit.data.bad_videos import FRAMES, good_clip, write_bad_files

#: files that only look bad: every frame can be read
HARMLESS = {"count_2_31"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bad_files(tmp_path_factory.mktemp("videos") / "bad")


def test_the_default_reader_refuses_them(files: dict[str, Path]) -> None:
    """In a process of its own, so that a hang or a death is found out."""
    code = (
        "import sys\n"
        "from petl_bench.data.video import VideoError, open_video\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        with open_video(path) as video:\n"
        "            video.read(range(video.info.num_frames))\n"
        "        print('read')\n"
        "    except VideoError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", code, *map(str, files.values())]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    said = dict(zip(files, lines, strict=True))
    assert {name for name, line in said.items() if line == "read"} == HARMLESS
    assert all(str(files[name]) in line for name, line in said.items() if name not in HARMLESS)


def test_the_verifier_calls_them_bad(files: dict[str, Path]) -> None:
    tasks = [Task(name, path, path.parent) for name, path in files.items() if path.exists()]
    entries = {entry.id: entry for entry in inspect_all(tasks, Limits(2, 30, 4), compare="decord")}
    assert entries.keys() == {task.id for task in tasks}
    assert {name for name, entry in entries.items() if entry.status == "ok"} == HARMLESS
    assert all(entry.reason for name, entry in entries.items() if name not in HARMLESS)
    assert entries["count_2_31"].frames == FRAMES
    assert "decord" in entries["count_2_31"].warnings[0]  # whose process it ends


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_good_clip_that_they_are_made_from_is_read(tmp_path: Path, suffix: str) -> None:
    with open_video(good_clip(tmp_path / "good", suffix)) as video:
        assert video.read(range(FRAMES)).shape == (FRAMES, 64, 64, 3)


def test_flipped_bits_never_give_fewer_frames_in_silence(tmp_path: Path) -> None:
    """Flipped bits can give other pictures without an error in any decoder: only the manifest's digest tells."""
    whole = bytearray(good_clip(tmp_path / "good").read_bytes())
    start = whole.index(b"mdat") + 100
    rng = np.random.default_rng(0)
    for place in rng.integers(start, len(whole), 1000):
        whole[place] ^= 1 << int(rng.integers(8))
    path = tmp_path / "flipped.mp4"
    path.write_bytes(bytes(whole))
    frames = FRAMES
    with suppress(VideoError), open_video(path) as video:
        frames = len(video.read(range(video.info.num_frames)))
    assert frames == FRAMES
