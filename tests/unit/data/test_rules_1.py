"""What petl_bench at commit 3e531d0 wrote is taken over where it still holds, and never used where it does not.

`rules_1/` was written by that commit: a dataset of eight generated clips, frame caches of one frame per second and of
three frames out of all (`FrameCache` with 8 pixels, `squash`, PyAV), and a manifest (`petl-bench data verify`).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from petl_bench.data import scan, verify
from petl_bench.data.build_cache import build, summary
from petl_bench.data.cache import CacheMiss, Clip, FrameCache, Profile
from petl_bench.data.datasets import ClipLoader
from petl_bench.data.manifest import read_manifest, refused
from petl_bench.data.reader import READING_RULES
from petl_bench.data.samples import Sample
from petl_bench.data.verify import Task, inspect_file
from petl_bench.data.video import PyAVReader
from petl_bench.errors import CheckpointError
from petl_bench.main import main

WRITTEN = Path(__file__).parent / "rules_1"
SECONDS = ClipLoader(3, "uniform", 1, 8, "squash", "pyav")
ALL = replace(SECONDS, rate=None)
#: what is read alike under both rules, and what is not
ALIKE = {"plain", "plain_mkv", "plain_avi", "turned"}
VARIABLE = {"variable_mp4", "variable_mkv", "variable_gif"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The dataset as if it had been written here, with the versions of PyAV and PyTorch that are installed."""
    root = Path(shutil.copytree(WRITTEN, tmp_path / "data"))
    for entry in read_manifest(root / "manifest.jsonl").values():
        os.utime(root / entry.path, ns=(entry.mtime_ns, entry.mtime_ns))
    versions = {"reader_version": av.__version__, "torch_version": torch.__version__.partition("+")[0]}
    for file in sorted((root / "cache").glob("*/profile.json")):
        file.parent.rename(
            file.parent.with_name(Profile(**json.loads(file.read_text()) | versions).sha256_of_rules_1[:16])
        )
    return root


def clips(root: Path, *moments: Clip) -> list[Clip]:
    return [*(Clip(path) for path in sorted((root / "videos").iterdir())), *moments]


def load(loader: ClipLoader, clip: Clip) -> torch.Tensor:
    frames, mask, _ = loader.load(clip.path, Sample("v", ("a",), clip.start, clip.end), np.random.default_rng(0))
    return frames[mask]


def cached(loader: ClipLoader, root: Path) -> tuple[ClipLoader, FrameCache]:
    cache = FrameCache(root / "cache", loader.profile)
    assert cache.former.is_dir()
    return replace(loader, cache=cache), cache


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.rglob("*.safetensors")}


def test_the_names_of_its_folders_are_known() -> None:
    for file in WRITTEN.glob("cache/*/profile.json"):
        assert Profile(**json.loads(file.read_text())).sha256_of_rules_1[:16] == file.parent.name


def test_none_of_its_frames_is_used_unseen(root: Path) -> None:
    loader, cache = cached(SECONDS, root)
    for clip in clips(root):
        with pytest.raises(CacheMiss, match=r"an earlier version read by other rules .* run petl-bench data cache"):
            load(loader, clip)
        assert torch.equal(load(replace(loader, decode_misses=True), clip), load(SECONDS, clip))
    with pytest.raises(CacheMiss, match=r"8 of 8 clips .* an earlier version"):
        cache.require(clips(root))


@pytest.mark.parametrize("workers", [0, 1])
def test_seconds(root: Path, workers: int) -> None:
    loader, cache = cached(SECONDS, root)
    former = files(cache.former)
    outcomes = build(cache, clips(root), workers)
    did = {outcome.clip.path.stem: outcome.did for outcome in outcomes}
    assert did == dict.fromkeys(ALIKE, "kept") | dict.fromkeys(VARIABLE | {"mirrored"}, "renewed")
    assert summary(outcomes) == "0 decoded, 0 found, 0 mended, 0 unreadable, 4 kept, 4 renewed"
    now = files(cache.folder)
    assert sum(now[name] == former[name] for name in now) == len(ALIKE)  # one file on disk, two names
    assert files(cache.former) == former
    for clip in clips(root):
        assert torch.equal(load(loader, clip), load(SECONDS, clip)), clip
    assert {outcome.did for outcome in build(cache, clips(root), workers, recheck=True)} == {"found"}


def test_whole_clips_and_moments(root: Path) -> None:
    moments = [Clip(root / "videos" / f"{name}.mp4", 1, 2) for name in ("plain", "variable_mp4")]
    loader, cache = cached(ALL, root)
    outcomes = build(cache, clips(root, *moments), workers=0)
    whole = {outcome.clip.path.stem: outcome.did for outcome in outcomes if outcome.clip.start is None}
    assert whole == dict.fromkeys(ALIKE | VARIABLE, "kept") | {"mirrored": "renewed"}
    assert {outcome.clip.path.stem: outcome.did for outcome in outcomes if outcome.clip.start} == {
        "plain": "kept",
        "variable_mp4": "renewed",
    }
    for clip in clips(root, *moments):
        assert torch.equal(load(loader, clip), load(ALL, clip)), clip


@pytest.mark.parametrize("loader", [SECONDS, ALL])
def test_nothing_is_decoded_to_find_out(loader: ClipLoader, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in GIF either, where a reader decodes everything to count frames, nor in AVI of a constant rate."""
    monkeypatch.setattr(scan, "_by_frames", lambda *_: pytest.fail("decoded"))
    _, cache = cached(loader, root)
    taken = {clip.path.stem for clip in clips(root) if cache.take_over(clip)}
    assert taken == (ALIKE if loader is SECONDS else ALIKE | VARIABLE)


def test_a_file_system_without_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    loader, cache = cached(SECONDS, root)
    former = files(cache.former)
    monkeypatch.setattr(os, "link", refuse)
    build(cache, clips(root), workers=0)
    assert len(files(cache.former)) == len(former) - len(ALIKE)  # moved
    for clip in clips(root):
        assert torch.equal(load(loader, clip), load(SECONDS, clip)), clip


def test_a_former_cache_that_cannot_be_taken_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    _, cache = cached(SECONDS, root)
    with pytest.raises(CheckpointError, match=r"cannot be taken over from .*: Operation not permitted"):
        cache.take_over(Clip(root / "videos" / "plain.mp4"))


def test_damage_is_not_taken_over(root: Path) -> None:
    loader, cache = cached(SECONDS, root)
    clip = Clip(root / "videos" / "plain.mp4")
    path = cache.former / cache.entry(clip).relative_to(cache.folder)
    path.write_bytes(path.read_bytes()[:-100])
    assert [outcome.did for outcome in build(cache, [clip], workers=0)] == ["renewed"]
    assert torch.equal(load(loader, clip), load(SECONDS, clip))


def test_its_entries_are_found_by_the_content_of_a_video_without_hashing_it_again(root: Path) -> None:
    _, cache = cached(SECONDS, root)
    clip = Clip(root / "videos" / "plain.mp4")
    status = clip.path.stat()
    line = {"path": str(clip.path), "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": "0" * 64}
    (cache.former / "sources.jsonl").write_text(json.dumps(line))
    assert cache.entry(clip).name == f"{'0' * 64}.safetensors"


def test_its_manifest_still_says_what_decodes(root: Path) -> None:
    entries = read_manifest(root / "manifest.jsonl")
    assert {entry.rules for entry in entries.values()} == {1}
    assert all(refused(entry, root / entry.path) is None for entry in entries.values())
    other = replace(entries["plain"], codec="magicyuv")
    assert refused(other, root / "videos/plain.mp4") == "its codec, magicyuv, is none of those that are opened"


def test_what_it_verified_is_described_anew_without_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PyAVReader, "decode_whole", lambda _: pytest.fail("decoded again"))
    monkeypatch.setattr(verify, "file_sha256", lambda _: pytest.fail("hashed again"))
    former = read_manifest(root / "manifest.jsonl")
    found = {name: inspect_file(Task(name, root / entry.path, root, entry)) for name, entry in former.items()}
    assert {(entry.status, entry.rules) for entry in found.values()} == {("ok", READING_RULES)}
    assert {name for name, entry in found.items() if entry.rate == "variable"} == VARIABLE
    assert {name: entry.display for name, entry in found.items() if entry.display} == {
        "turned": "turned left by 90",
        "mirrored": "mirrored left to right",
    }
    assert (found["variable_mkv"].fps, found["variable_mkv"].header_fps) == (pytest.approx(8, 0.01), 30)
    for name, entry in found.items():
        assert (entry.sha256, entry.frames, entry.codec) == (
            former[name].sha256,
            former[name].frames,
            former[name].codec,
        )


def test_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config=data/custom.yaml", f"--data.root={root}", "--data.init_args.partial=true", "--workers=2"]
    assert main(["data", "verify", *options]) == 0
    printed = capsys.readouterr().out
    assert "8 ok, 0 bad, 0 missing, 0 extra" in printed
    assert "frame rates: 5 constant, 3 variable (the header of 2 names another one)" in printed
    assert "shown otherwise than stored: 1 mirrored left to right, 1 turned left by 90" in printed
    assert {entry.rules for entry in read_manifest(root / "manifest.jsonl").values()} == {READING_RULES}
