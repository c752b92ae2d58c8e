"""Cached frames are those of decoding to the last bit, and never old or damaged ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.filesize import decimal
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from petl_bench.data import build_cache, cache, jpeg
from petl_bench.data.build_cache import build
from petl_bench.data.cache import CacheMiss, Clip, DamagedEntry, FrameCache
from petl_bench.data.checksum import word_sum
from petl_bench.data.datasets import ClipLoader
from petl_bench.data.samples import Sample
from petl_bench.data.sampling import RANDOM_SAMPLERS, SAMPLERS
from petl_bench.data.video import VideoError
from petl_bench.errors import CheckpointError, DataError
from petl_bench.inputs import FrameRule, Moment, Sampling
from tests.unit.data.test_video import write_clip

DECODER = ClipLoader(FrameRule(4, "uniform", 2), 32, "shorter_side_crop", "pyav")


def ruled(**changes: Any) -> ClipLoader:
    """The decoder with another rule."""
    return replace(DECODER, rule=replace(DECODER.rule, **changes))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Constant and variable frame rate, turned, and moments."""
    folder = tmp_path_factory.mktemp("clips")
    plain = write_clip(folder / "plain.mp4")
    variable = write_clip(folder / "variable.mp4", variable_rate=True)
    turned = write_clip(folder / "turned.mp4", rotation=90)
    return [
        Clip(plain),
        Clip(plain, Moment(0, 1)),
        Clip(plain, Moment(1)),
        Clip(variable),
        Clip(variable, Moment(0, 1)),
        Clip(turned),
    ]


@pytest.fixture
def movable(clips: list[Clip], tmp_path: Path) -> Clip:
    """A clip of a file that a test may change."""
    return Clip(Path(shutil.copy(clips[0].path, tmp_path / "movable.mp4")))


def with_cache(loader: ClipLoader, folder: Path, decode_misses: bool = False) -> tuple[ClipLoader, FrameCache]:
    found = FrameCache(folder, loader.profile)
    return replace(loader, cache=found, decode_misses=decode_misses), found


def load(loader: ClipLoader, clip: Clip, seed: int = 0) -> Tensor:
    found = loader.load(clip.path, Sample("v", ("a",), clip.moment), np.random.default_rng(seed))
    return found.frames[found.mask]


def entries(folder: Path) -> dict[Path, int]:
    """Entries and the file each is: another number says that it was written again."""
    return {path: path.stat().st_ino for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("rate", [None, 1, 5])
@pytest.mark.parametrize("sampling", SAMPLERS)
def test_frames_equal_decoding(sampling: Sampling, rate: int | None, clips: list[Clip], tmp_path: Path) -> None:
    decoder = ruled(sampling=sampling, rate=rate)
    cached, store = with_cache(decoder, tmp_path)
    build(store, clips, workers=0)
    for clip in clips:
        for seed in range(3 if sampling in RANDOM_SAMPLERS else 1):
            assert torch.equal(load(cached, clip, seed), load(decoder, clip, seed)), clip


@pytest.mark.parametrize(
    ("change", "own"),
    [
        ({"resize": "squash"}, True),
        ({"image_size": 16}, True),
        ({"reader": "decord"}, True),
        pytest.param({"reader": "torchcodec"}, True, marks=pytest.mark.needs_torchcodec),
        ({"rate": 1}, True),
        ({"rate": None}, True),
        ({"count": 3}, False),
        ({"sampling": "segment_random"}, False),
        ({"sampling": "head", "count": 12}, False),
    ],
)
def test_what_needs_frames_of_its_own(change: dict[str, Any], own: bool) -> None:
    of_rule = {name: value for name, value in change.items() if name in ("rate", "sampling", "count")}
    others = {name: value for name, value in change.items() if name not in of_rule}
    assert (replace(ruled(**of_rule), **others).profile != DECODER.profile) == own


def test_every_frame_serves_any_random_sampling() -> None:
    every = ruled(rate=None, sampling="segment_random").profile
    assert ruled(rate=None, sampling="blip_random", count=9).profile == every
    assert every.numbers(40, 20.0, None).tolist() == list(range(40))


def test_a_fixed_choice_from_every_frame_keeps_that_choice() -> None:
    profile = ruled(rate=None, count=3).profile
    assert profile.numbers(40, 20.0, None).tolist() == [0, 19, 39]
    assert profile != ruled(rate=None, count=4).profile


@pytest.mark.parametrize("sampling", ["uniform", "head", "filled"])
def test_chosen_frames_alone_equal_decoding(sampling: Sampling, clips: list[Clip], tmp_path: Path) -> None:
    decoder = ruled(sampling=sampling, rate=10, count=3)
    whole = with_cache(decoder, tmp_path / "whole")[1]
    store = FrameCache(tmp_path / "chosen", decoder.chosen_profile)
    cached = replace(decoder, cache=store)
    for one in (whole, store):
        build(one, clips, workers=0)
    for clip in clips:
        assert store.number_of_frames(clip) <= 3
        assert torch.equal(load(cached, clip), load(decoder, clip)), clip
    if sampling != "filled":  # which keeps its choice anyway
        assert whole.number_of_frames(clips[0]) == 20
        with pytest.raises(CacheMiss, match="run petl-bench data cache --keep chosen"):
            store.require([clips[0]._replace(moment=Moment(0.5))])


@pytest.mark.parametrize("rule", [{}, {"rate": None}, {"sampling": "segment_random", "rate": 5}])
@pytest.mark.parametrize("quality", [1, 95])
def test_jpeg_frames_equal_decoding_and_jpeg(
    rule: dict[str, Any], quality: int, clips: list[Clip], tmp_path: Path
) -> None:
    decoder = replace(ruled(**rule), jpeg_quality=quality)
    cached, store = with_cache(decoder, tmp_path)
    build(store, clips, workers=0)
    for clip in clips:
        assert torch.equal(load(cached, clip), load(decoder, clip)), clip
        pixels = load(ruled(**rule), clip)
        off = (load(cached, clip).int() - pixels.int()).abs().float().mean()
        assert 0 < off < (5 if quality == 95 else 50)
        room = cached.room()
        sample = Sample("v", ("a",), clip.moment)
        assert cached.load(clip.path, sample, np.random.default_rng(0), room=room).frames is room.frames


def test_jpeg_and_pixels_never_mix(clips: list[Clip], tmp_path: Path) -> None:
    jpeg, (pixels, exact) = replace(DECODER, jpeg_quality=95), with_cache(DECODER, tmp_path)
    cached, store = with_cache(jpeg, tmp_path)
    build(store, clips[:1], workers=0)
    told = r"frames of other settings \(JPEG, other pixels; data\.jpeg_quality 95 reads them\)"
    with pytest.raises(CacheMiss, match=told):
        load(pixels, clips[0])
    with pytest.raises(CacheMiss, match=told):
        load(with_cache(replace(jpeg, jpeg_quality=90), tmp_path)[0], clips[0])
    build(exact, clips[:1], workers=0)
    assert exact.folder != store.folder
    assert torch.equal(load(pixels, clips[0]), load(DECODER, clips[0]))
    assert torch.equal(load(cached, clips[0]), load(jpeg, clips[0]))
    other = with_cache(replace(jpeg, jpeg_quality=90), tmp_path)[1]
    build(other, clips[:1], workers=0)
    mixed = ((exact, store, "'jpeg'"), (store, exact, "'frames'"), (other, store, "of quality 90, and not 95"))
    for one, to, reason in mixed:
        before = to.entry(clips[0]).read_bytes()
        shutil.copy(one.entry(clips[0]), to.entry(clips[0]))
        with pytest.raises(DamagedEntry, match=f"{reason}.* mend it with petl-bench data cache --recheck"):
            to.read(clips[0], lambda *_: np.array([0]))
        to.entry(clips[0]).write_bytes(before)


def test_a_cache_of_pixels_is_named_as_it_was_before_there_was_jpeg() -> None:
    assert "jpeg_quality" not in DECODER.profile.fields
    fields = replace(DECODER, jpeg_quality=95).profile.fields
    assert (fields["jpeg_quality"], fields["jpeg_version"]) == (95, jpeg.jpeg_version())


@pytest.mark.parametrize("content", [b"no JPEG", b"\xff\xd8\xff\xd9", "another size"])
def test_what_is_no_jpeg_of_the_frame_is_damage(content: bytes | str, clips: list[Clip], tmp_path: Path) -> None:
    """Also where sums and description say that it is what was written."""
    cached, store = with_cache(replace(DECODER, jpeg_quality=95), tmp_path)
    build(store, clips[:1], workers=0)
    path = store.entry(clips[0])
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["clip"])
    if isinstance(content, str):
        (content,) = jpeg.encoded(torch.zeros(1, 3, 32, 16, dtype=torch.uint8), 95)
    description |= {"lengths": [len(content)] * 4, "sums": [word_sum(memoryview(content))] * 4}
    text = json.dumps(description)
    save_file({"jpeg": jpeg.joined([content] * 4)}, path, {"clip": text, "crc32": str(zlib.crc32(text.encode()))})
    with pytest.raises(DamagedEntry, match=r"safetensors: cached frame 0 is damaged \(.*; mend it"):
        load(cached, clips[0])


def test_room_for_jpeg_is_estimated_from_some_of_its_frames(
    clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store = with_cache(replace(DECODER, jpeg_quality=95), tmp_path)
    expected = build_cache.expected_bytes(store, clips)
    build(store, clips, workers=0)
    assert f"about {decimal(expected)}" in capsys.readouterr().out
    lengths = [length for path in entries(tmp_path) for length in described(path)["lengths"]]
    assert sum(lengths) / 1.2 < expected < sum(lengths) * 1.2


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["clip"])


def test_another_sampling_is_refused_chosen_frames_in_a_line(clips: list[Clip], tmp_path: Path) -> None:
    decoder = ruled(count=3)
    build(FrameCache(tmp_path, decoder.chosen_profile), clips[:1], workers=0)
    for other in (ruled(count=4), ruled(sampling="head", count=3), ruled(sampling="segment_random")):
        with pytest.raises(CacheMiss, match="only those that sampling uniform chooses for 3 frames a clip") as caught:
            load(with_cache(other, tmp_path)[0], clips[0])
        assert "\n" not in str(caught.value)


def test_a_random_sampling_has_no_choice_to_keep() -> None:
    loader = ruled(sampling="segment_random")
    assert loader.chosen_profile == loader.profile
    assert ruled(rate=None).chosen_profile == ruled(rate=None).profile


def test_versions_are_part_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    before = DECODER.profile
    monkeypatch.setattr(torch, "__version__", "9.9.9+cu999")
    assert DECODER.profile.torch_version == "9.9.9"
    assert DECODER.profile.sha256 != before.sha256


def test_frames_are_decoded_in_parts_when_they_are_many(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_DECODED_BYTES", 5 * 3 * 96 * 64)
    decoder = ruled(sampling="head", rate=0, count=40)
    cached, store = with_cache(decoder, tmp_path)
    build(store, clips[:1], workers=0)
    assert torch.equal(load(cached, clips[0]), load(decoder, clips[0]))


def test_an_absent_clip_is_an_error_or_decoded(clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(ruled(sampling="segment_random"), tmp_path)
    build(store, clips[:1], workers=0)
    with pytest.raises(CacheMiss, match=r"variable\.mp4: not in the frame cache .* petl-bench data cache"):
        load(strict, clips[3])
    with pytest.raises(CacheMiss, match=r"1 of 2 clips \(variable\.mp4\)"):
        store.require([clips[0], clips[3]])
    lenient = replace(strict, decode_misses=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load(lenient, clips[3]), load(replace(strict, cache=None), clips[3]))


def test_a_cache_of_other_settings_is_named(clips: list[Clip], tmp_path: Path) -> None:
    build(with_cache(DECODER, tmp_path)[1], clips[:1], workers=0)
    other, _ = with_cache(replace(DECODER, image_size=16), tmp_path)
    with pytest.raises(CacheMiss, match="image_size 32 instead of 16"):
        load(other, clips[0])


def test_frames_outside_the_grid_are_never_guessed(clips: list[Clip], tmp_path: Path) -> None:
    _, store = with_cache(DECODER, tmp_path)
    build(store, clips[:1], workers=0)
    with pytest.raises(ValueError, match="not all among the cached"):
        store.read(clips[0], lambda *_: np.array([1]))


def test_a_changed_video_never_gives_its_old_frames(movable: Clip, clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(DECODER, tmp_path / "cache")
    build(store, [movable], workers=0)
    old = load(strict, movable)
    shutil.copy(clips[5].path, movable.path)
    with pytest.raises(CacheMiss, match="not in the frame cache"):
        load(strict, movable)
    assert not torch.equal(load(replace(strict, decode_misses=True), movable), old)
    assert [o.did for o in build(store, [movable], workers=0)] == ["decoded"]
    assert torch.equal(load(strict, movable), load(DECODER, movable))


def test_a_moved_or_touched_video_is_known_by_its_content(movable: Clip, tmp_path: Path) -> None:
    _, store = with_cache(DECODER, tmp_path / "cache")
    build(store, [movable], workers=0)
    os.utime(movable.path, (1, 1))
    moved = Clip(movable.path.rename(tmp_path / "moved.mp4"))
    strict, store = with_cache(DECODER, tmp_path / "cache")
    assert torch.equal(load(strict, moved), load(DECODER, moved))
    assert [o.did for o in build(store, [moved], workers=0)] == ["found"]


def test_an_unchanged_video_is_hashed_once(movable: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(with_cache(DECODER, tmp_path)[1], [movable], workers=0)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(cache, "file_sha256", refuse)
    assert len(load(with_cache(DECODER, tmp_path)[0], movable)) == 4


def test_a_record_cut_short_costs_a_hash_only(movable: Clip, tmp_path: Path) -> None:
    _, store = with_cache(DECODER, tmp_path)
    build(store, [movable], workers=0)
    sources = store.folder / "sources.jsonl"
    sources.write_bytes(sources.read_bytes()[:-20])
    assert [o.did for o in build(FrameCache(tmp_path, DECODER.profile), [movable], workers=0)] == ["found"]
    assert json.loads(sources.read_bytes().splitlines()[-1])["path"] == str(movable.path)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def description_at(path: Path, text: bytes) -> int:
    return path.read_bytes().index(text) + len(text)


@pytest.mark.parametrize("quality", [None, 95])
@pytest.mark.parametrize("damage", ["frame", "num_frames", "numbers", "header", "cut", "empty", "text"])
def test_damage_is_an_error_or_decoded_and_is_mended(
    damage: str, quality: int | None, clips: list[Clip], tmp_path: Path
) -> None:
    strict, store = with_cache(replace(ruled(sampling="segment_random"), jpeg_quality=quality), tmp_path)
    build(store, clips[:1], workers=0)
    (path,) = entries(tmp_path)
    match damage:
        case "frame":
            flip(path, path.stat().st_size - 1)
            with pytest.raises(DamagedEntry, match="cached frame 30 is damaged"):
                load(strict, clips[0])
        case "num_frames":
            flip(path, description_at(path, b'num_frames\\": '))
        case "numbers":
            flip(path, description_at(path, b'numbers\\": [0, '))
        case "header":
            flip(path, 7)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1000])
        case "empty":
            path.write_bytes(b"")
        case _:
            path.write_text("not frames", encoding="utf-8")
    with pytest.raises(DamagedEntry, match=r"safetensors: .*; mend it with petl-bench data cache --recheck"):
        load(strict, clips[0])
    with pytest.warns(UserWarning, match="decoded this time"):
        decoded = load(replace(strict, decode_misses=True), clips[0])
    assert torch.equal(decoded, load(replace(strict, cache=None), clips[0]))
    assert [o.did for o in build(store, clips[:1], workers=0, recheck=True)] == ["mended"]
    assert torch.equal(load(strict, clips[0]), decoded)


def test_an_entry_that_is_cut_while_it_is_read_is_damaged(clips: list[Clip], tmp_path: Path) -> None:
    _, store = with_cache(DECODER, tmp_path)
    build(store, clips[:1], workers=0)
    path = store.entry(clips[0])

    def cut(*_: object) -> np.ndarray:
        os.truncate(path, path.stat().st_size - 1)
        return np.array([0, 30])

    with pytest.raises(DamagedEntry, match="it ends too early"):
        store.read(clips[0], cut)


@pytest.mark.parametrize("change", ["dtype", "shape", "data_offsets"])
def test_a_header_that_says_something_else_is_damage(change: str, clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(DECODER, tmp_path)
    build(store, clips[:1], workers=0)
    path = store.entry(clips[0])
    content = path.read_bytes()
    before, after = {
        "dtype": (b'"dtype":"U8"', b'"dtype":"I8"'),
        "shape": (b'"shape":[4,3,32,32]', b'"shape":[4,3,32,16]'),
        "data_offsets": (b'"data_offsets":[0,', b'"data_offsets":[9,'),
    }[change]
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    with pytest.raises(DamagedEntry, match=r"safetensors: .*; mend it"):
        load(strict, clips[0])


def test_frames_of_another_size_are_never_put_into_room(clips: list[Clip], tmp_path: Path) -> None:
    _, store = with_cache(DECODER, tmp_path)
    build(store, clips[:1], workers=0)
    with pytest.raises(DamagedEntry, match=r"\[3, 32, 32\], and not \[3, 16, 16\]"):
        store.read(clips[0], lambda *_: np.array([0]), torch.empty(2, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="2 frames do not fit into 1"):
        store.read(clips[0], lambda *_: np.array([0, 30]), torch.empty(1, 3, 32, 32, dtype=torch.uint8))


def test_an_entry_without_sums_is_checked_by_its_crc32(clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(DECODER, tmp_path)
    build(store, clips[:1], workers=0)
    path = store.entry(clips[0])
    with safe_open(path, "pt") as file:
        frames, description = file.get_tensor("frames"), json.loads(file.metadata()["clip"])
    del description["sums"]
    text = json.dumps(description)
    save_file({"frames": frames}, path, {"clip": text, "crc32": str(zlib.crc32(text.encode()))})
    assert torch.equal(load(strict, clips[0]), load(DECODER, clips[0]))
    flip(path, path.stat().st_size - 9)
    with pytest.raises(DamagedEntry, match="cached frame 30 is damaged"):
        load(strict, clips[0])


@pytest.mark.parametrize("size", [0, 5, 8, 803])
def test_a_sum_changes_with_every_bit(size: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
    before = word_sum(pixels.data)
    for place in range(size):
        for bit in range(8):
            pixels[place] ^= 1 << bit
            assert word_sum(pixels.data) != before
            pixels[place] ^= 1 << bit
    assert word_sum(pixels.data) == before


def test_a_sum_tells_places_apart() -> None:
    words = np.arange(1, 9, dtype="<i8")
    swapped = words[[1, 0, *range(2, 8)]]
    assert word_sum(words.view(np.uint8).data) != word_sum(swapped.view(np.uint8).data)
    assert word_sum(words.view(np.uint8).data) == 1456069854528987344  # entries of before are read by it


def test_damaged_times_are_an_error(clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(DECODER, tmp_path)
    build(store, [clips[3]], workers=0)  # of a variable rate
    path = store.entry(clips[3])
    with safe_open(path, "np") as file:
        times = file.get_tensor("times")
    assert len(times) == 41
    flip(path, path.read_bytes().index(times.tobytes()) + 8 * 5)
    with pytest.raises(DamagedEntry, match="the times of the cached frames are damaged"):
        load(strict, clips[3])
    assert [o.did for o in build(store, [clips[3]], workers=0, recheck=True)] == ["mended"]
    assert torch.equal(load(strict, clips[3]), load(DECODER, clips[3]))


def test_recheck_reads_what_no_row_has_asked_for(clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(ruled(sampling="head", count=1), tmp_path)
    build(store, clips[:2], workers=0)
    path = store.entry(clips[0])
    before = entries(tmp_path)
    flip(path, path.stat().st_size - 1)
    assert len(load(strict, clips[0])) == 1  # the first frame is sound
    assert [o.did for o in build(store, clips[:2], workers=0)] == ["found", "found"]
    assert [o.did for o in build(store, clips[:2], workers=0, recheck=True)] == ["mended", "found"]
    after = entries(tmp_path)
    assert after[store.entry(clips[1])] == before[store.entry(clips[1])]


def test_unreadable_clips_are_reported_and_the_others_cached(clips: list[Clip], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video", encoding="utf-8")
    strict, store = with_cache(DECODER, tmp_path / "cache")
    late = Clip(clips[0].path, Moment(60))
    outcomes = build(store, [Clip(text), Clip(tmp_path / "absent.mp4"), late, clips[0]], workers=0)
    assert [o.did for o in outcomes] == ["unreadable", "unreadable", "unreadable", "decoded"]
    assert build_cache.summary(outcomes) == "1 decoded, 0 found, 0 mended, 3 unreadable"
    assert "Invalid data" in outcomes[0].reason
    assert "No such file" in outcomes[1].reason
    assert "no frame from second 60" in outcomes[2].reason
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        load(strict, Clip(tmp_path / "absent.mp4"))


def test_too_little_room_is_told_before_writing(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store = with_cache(DECODER, tmp_path)
    needed = 3 * 32 * 32 * 4  # 40 frames at 20 per second, two of each

    def free(room: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=room)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)

    free(needed - 1)
    with pytest.raises(CheckpointError, match=r"the frames need about .* are free: give another --cache"):
        build(store, clips[:1], workers=0)
    assert not entries(tmp_path)
    assert "1 of 1 clips to decode" in capsys.readouterr().out
    free(needed)
    build(store, clips[:1], workers=0)
    free(0)
    build(store, clips[:1], workers=0)  # nothing is missing


def test_a_disk_that_fills_up_is_an_error_of_storage(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = with_cache(DECODER, tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_profile", lambda: store.folder.mkdir(parents=True))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        build(store, clips[:1], workers=0)
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made(tmp_path: Path, clips: list[Clip]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="set --cache"):
        build(with_cache(DECODER, tmp_path / "file")[1], clips[:1], workers=0)


#: builds a cache in two processes, and is killed when one clip or the number given are committed
BUILD = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from petl_bench.data import cache
from petl_bench.data.build_cache import build
from petl_bench.inputs import FrameRule, Moment, Sampling
from tests.unit.data.test_cache import DECODER, FrameCache, Clip

folder, kill_after, quality, *videos = sys.argv[1:]
write = cache.write_bytes_atomically
main = os.getpid()

def write_and_kill(path, content):
    write(path, content)
    if len(list(Path(folder).rglob("*.safetensors"))) >= int(kill_after):
        path.with_name(f".{path.name}.half.tmp").write_bytes(content[:100])
        os.kill(main, signal.SIGKILL)

cache.write_bytes_atomically = write_and_kill
loader = replace(DECODER, jpeg_quality=int(quality) or None)
build(FrameCache(Path(folder), loader.profile), [Clip(Path(video)) for video in videos], workers=2)
"""


@pytest.mark.parametrize("quality", [None, 95])
def test_a_killed_build_loses_nothing_and_repeats_nothing(
    quality: int | None, clips: list[Clip], tmp_path: Path
) -> None:
    decoder = replace(DECODER, jpeg_quality=quality)
    videos = []
    for number in range(8):  # different files with the same picture
        content = clips[0].path.read_bytes() + bytes(number)
        videos.append(tmp_path / f"{number}.mp4")
        videos[-1].write_bytes(content)
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", BUILD, str(folder), "3", str(quality or 0), *map(str, videos)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]

    before = entries(folder)
    assert 3 <= len(before) < 8
    strict, store = with_cache(decoder, folder)
    moments = [Clip(video) for video in videos]
    outcomes = build(store, moments, workers=0)
    assert sorted(o.did for o in outcomes) == ["decoded"] * (8 - len(before)) + ["found"] * len(before)
    after = entries(folder)
    assert len(after) == 8
    assert {path: after[path] for path in before} == before
    assert all(torch.equal(load(strict, clip), load(decoder, clip)) for clip in moments)


def test_only_abandoned_files_are_swept(clips: list[Clip], tmp_path: Path) -> None:
    _, store = with_cache(DECODER, tmp_path)
    build(store, clips[:1], workers=0)
    young, old = store.entry(clips[0]).with_name(".young.tmp"), store.entry(clips[0]).with_name(".old.tmp")
    young.touch()
    old.touch()
    os.utime(old, (1, 1))
    build(store, clips[:1], workers=0)
    assert young.is_file()
    assert not old.exists()


def test_two_builders_at_once(clips: list[Clip], tmp_path: Path) -> None:
    def work(_number: int) -> list[str]:
        store = FrameCache(tmp_path, DECODER.profile)
        return [o.did for o in map(build_cache._Clips(store, clips, False).__getitem__, range(len(clips)))]

    FrameCache(tmp_path, DECODER.profile).write_profile()
    command = [sys.executable, "-c", BUILD, str(tmp_path), "99", "0", *(str(clip.path) for clip in clips)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(
            subprocess.run, command, cwd=Path(__file__).parents[3], capture_output=True, timeout=120, check=True
        )
        assert set(work(0)) <= {"decoded", "found"}
        other.result()
    strict, store = with_cache(DECODER, tmp_path)
    assert not list(store.folder.rglob("*.tmp"))
    assert {o.did for o in build(store, clips, workers=0, recheck=True)} == {"found"}
    assert all(torch.equal(load(strict, clip), load(DECODER, clip)) for clip in clips)


class Loaded(Dataset[Tensor]):
    def __init__(self, loader: ClipLoader, clips: list[Clip]) -> None:
        self.loader, self.clips = loader, clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        return load(self.loader, self.clips[index])


def test_two_reading_processes(clips: list[Clip], tmp_path: Path) -> None:
    strict, store = with_cache(DECODER, tmp_path)
    build(store, clips, workers=2)
    found = list(DataLoader(Loaded(strict, clips), batch_size=None, num_workers=2))
    assert all(torch.equal(frames, load(DECODER, clip)) for frames, clip in zip(found, clips, strict=True))


def test_a_decoding_process_that_dies(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = with_cache(DECODER, tmp_path)
    main = os.getpid()

    def die(*_: object) -> None:
        assert os.getpid() != main
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(FrameCache, "store", die)
    with pytest.raises(DataError, match=r"a decoding process died .* petl-bench data verify"):
        build(store, clips[:1], workers=1)


@pytest.mark.parametrize(("rate", "rule"), [(1, "uniform"), (None, "left_edge"), (2, "segment_random")])
def test_real_and_odd_clips_equal_decoding(rate: int | None, rule: str, shared: Path, tmp_path: Path) -> None:
    """Rotated, of variable rate, 10 bit, AV1, damaged: what decoding refuses, the cache does not hold."""
    files = [path for name in ("odd_videos", "msrvtt_mini/videos") for path in (shared / "data" / name).rglob("*.m*")]
    decoder = ruled(rate=rate, sampling=rule)
    cached, store = with_cache(decoder, tmp_path)
    outcomes = build(store, [Clip(path) for path in files[:24]], workers=0)
    assert {o.did for o in outcomes} == {"decoded", "unreadable"}
    for outcome in outcomes:
        if outcome.did == "decoded":
            assert torch.equal(load(cached, outcome.clip), load(decoder, outcome.clip)), outcome.clip
        else:
            with pytest.raises(VideoError):
                load(decoder, outcome.clip)
