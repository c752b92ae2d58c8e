"""Generates a small dataset in the MSR-VTT layout, so that everything runs without downloads.

Each clip shows one coloured shape that moves first in one direction and then in another; its captions name
colour, shape and the order of the motions ("a red circle moves left, then up"). No training video shows a
combination of the test set, but every colour, shape and motion of the test set occurs in training.

The test set comes in families of one colour and shape: "left, then up", "up, then left" (the same motions
swapped) and their reversals "down, then right", "right, then down". A clip and its reversal consist of the
same frames in the opposite order, so a method that averages over frames cannot tell the two apart: recall at
1 above about 50 % needs temporal modelling.
"""

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.codec.codec import Codec, UnknownCodecError

from petl_bench.errors import UsageError

#: file that marks a folder as generated, so that its figures are never taken for a benchmark
MARK = "GENERATED_BY_PETL_BENCH"
COLOURS = {
    "red": (225, 30, 30),
    "green": (30, 190, 50),
    "blue": (40, 70, 235),
    "yellow": (240, 220, 40),
    "white": (250, 250, 250),
    "purple": (160, 50, 190),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
TEMPLATES = (
    "a {colour} {shape} moves {first}, then {second}",
    "the {colour} {shape} goes {first} and then {second}",
    "first {first}, then {second}: a {colour} {shape}",
    "a {shape} in {colour} travels {first} before it turns {second}",
    "{colour} {shape} heading {first} and afterwards {second}",
    "after moving {first} the {colour} {shape} moves {second}",
)


class Scene(NamedTuple):
    """What one clip shows."""

    colour: str
    shape: str
    first: str
    second: str


class FixtureSummary(NamedTuple):
    """What `write_fixture` wrote."""

    folder: Path
    train_videos: int
    test_videos: int
    captions: int


def write_fixture(
    folder: Path,
    *,
    seed: int = 0,
    train_videos: int = 64,
    test_videos: int = 32,
    captions_per_video: int = 3,
    size: int = 64,
    seconds: float = 4,
    fps: int = 8,
) -> FixtureSummary:
    """Writes annotation files and H.264 clips; the same arguments give the same files on the same machine.

    `video0 ..` are training videos, the last `test_videos` are the test set `MSRVTT_JSFUSION_test.csv`. As in
    MSR-VTT, the 9k list holds all training videos, the 7k list the full train and full validation ones among
    them, and the full test set adds the rest to the test videos.

    Args:
        folder: Created; may exist only if empty.
        seed: Determines everything.
        train_videos: At least 4.
        test_videos: At least 1.
        captions_per_video: 1 to 6, each worded differently.
        size: Height and width in pixels, even and at least 32.
        seconds: Length of a clip.
        fps: Frames per second.

    Raises:
        UsageError: The folder is not empty, an argument is out of range, or PyAV cannot encode H.264.
    """
    half = round(seconds * fps / 2)  # frames per motion
    _check_arguments(train_videos, test_videos, captions_per_video, size, half)
    _require_encoder()
    rng = np.random.default_rng(seed)
    test = _test_scenes(rng, test_videos)
    train = _train_scenes(rng, test, train_videos)
    _create_empty(folder)
    scenes = train + test
    captions = [_captions(rng, scene, captions_per_video) for scene in scenes]
    _write_annotations(folder, len(train), captions, seconds=2 * half / fps)
    (folder / MARK).write_text(f"seed {seed}\n", encoding="utf-8")
    (folder / "videos").mkdir()
    for number, scene in enumerate(scenes):
        # A test clip and its reversal share background and track, so that only the order of frames differs.
        place = [seed, 0, number] if number < len(train) else [seed, 1, *_family_member(scene)]
        frames = _render(scene, np.random.default_rng(place), half, size)
        _encode(folder / "videos" / f"video{number}.mp4", frames, fps)
    return FixtureSummary(folder, len(train), len(test), captions_per_video * len(scenes))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `petl-bench fixture`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to create; may exist only if empty")
    parser.add_argument("--seed", type=int, default=0, help="determines everything (default: %(default)s)")
    parser.add_argument("--train-videos", type=int, default=64, help="training clips (default: %(default)s)")
    parser.add_argument("--test-videos", type=int, default=32, help="test clips (default: %(default)s)")
    parser.add_argument("--captions-per-video", type=int, default=3, help="1 to 6 (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=64, help="height and width in pixels (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=4, help="length of a clip (default: %(default)s)")
    parser.add_argument("--fps", type=int, default=8, help="frames per second (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs `petl-bench fixture` and prints one line about what was written."""
    summary = write_fixture(
        args.folder,
        seed=args.seed,
        train_videos=args.train_videos,
        test_videos=args.test_videos,
        captions_per_video=args.captions_per_video,
        size=args.size,
        seconds=args.seconds,
        fps=args.fps,
    )
    print(
        f"wrote {summary.train_videos} training and {summary.test_videos} test videos"
        f" with {summary.captions} captions to {summary.folder}"
    )
    return 0


def _check_arguments(
    train_videos: int, test_videos: int, captions_per_video: int, size: int, half: int
) -> None:
    if train_videos < 4 or test_videos < 1:
        raise UsageError("--train-videos must be at least 4 and --test-videos at least 1")
    if not 1 <= captions_per_video <= len(TEMPLATES):
        raise UsageError(f"--captions-per-video {captions_per_video}: choose 1 to {len(TEMPLATES)}")
    if size < 32 or size % 2:
        raise UsageError(f"--size {size}: choose an even number of at least 32 pixels")
    if half < 2:
        raise UsageError("--seconds and --fps: a clip needs at least 4 frames, 2 for each motion")


def _require_encoder() -> None:
    try:
        Codec("libx264", "w")
    except UnknownCodecError as error:
        raise UsageError(
            "this PyAV has no libx264 encoder; install the wheel from PyPI: pip install av"
        ) from error


def _create_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; choose another")
    folder.mkdir(parents=True, exist_ok=True)


def _motions() -> list[tuple[str, str]]:
    return [(first, second) for first, second in product(DIRECTIONS, repeat=2) if first != second]


def _reversal(first: str, second: str) -> tuple[str, str]:
    """The motion that shows the same frames in another order: backwards, or swapped for there and back."""
    if second == OPPOSITE[first]:
        return second, first
    return OPPOSITE[second], OPPOSITE[first]


def _family_member(scene: Scene) -> tuple[int, int, int]:
    """Numbers that a scene shares with its reversal and no other."""
    motions = _motions()
    motion = (scene.first, scene.second)
    member = min(motions.index(motion), motions.index(_reversal(*motion)))
    return list(COLOURS).index(scene.colour), SHAPES.index(scene.shape), member


def _families() -> list[list[tuple[str, str]]]:
    """Motions in groups closed under swap and reversal; a motion and its reversal stand side by side."""
    families: list[list[tuple[str, str]]] = []
    for first, second in _motions():
        if not any((first, second) in family for family in families):
            swapped = (second, first)
            members = [(first, second), _reversal(first, second), swapped, _reversal(*swapped)]
            families.append(list(dict.fromkeys(members)))
    return families


def _test_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    groups = list(product(COLOURS, SHAPES, _families()))
    order = rng.permutation(len(groups))
    shuffled = (groups[index] for index in order)
    scenes = [Scene(colour, shape, *motion) for colour, shape, family in shuffled for motion in family]
    return scenes[:count]


def _train_scenes(rng: np.random.Generator, test: Sequence[Scene], count: int) -> list[Scene]:
    """Scenes outside the test set that cover its colours, shapes and motions; repeated when too few."""
    every = [Scene(colour, shape, *motion) for colour, shape, motion in product(COLOURS, SHAPES, _motions())]
    free = [scene for scene in every if scene not in set(test)]
    free = [free[index] for index in rng.permutation(len(free))]
    missing = {value for scene in test for value in _values(scene)}
    needed: list[Scene] = []
    while missing:
        best = max(free, key=lambda scene: len(missing & _values(scene)), default=None)
        if best is None or not missing & _values(best):
            raise UsageError(f"--test-videos {len(test)} leaves no combination to train on; choose fewer")
        needed.append(best)
        missing -= _values(best)
    if len(needed) > count:
        raise UsageError(f"--train-videos {count}: the test set needs at least {len(needed)}")
    chosen = needed + [scene for scene in free if scene not in needed]
    repeated = [chosen[index % len(chosen)] for index in range(count)]
    return [repeated[index] for index in rng.permutation(count)]


def _values(scene: Scene) -> set[str]:
    return {scene.colour, scene.shape, f"{scene.first} {scene.second}"}


def _captions(rng: np.random.Generator, scene: Scene, count: int) -> list[str]:
    chosen = rng.permutation(len(TEMPLATES))[:count]
    return [TEMPLATES[index].format(**scene._asdict()) for index in chosen]


def _write_annotations(folder: Path, num_train: int, captions: list[list[str]], seconds: float) -> None:
    names = [f"video{number}" for number in range(len(captions))]
    num_validation = max(num_train // 8, 1)
    num_full_train = num_train - 2 * num_validation
    splits = ["train"] * num_full_train + ["validate"] * num_validation
    splits += ["test"] * (len(names) - len(splits))
    videos = [
        {
            "id": number,
            "video_id": name,
            "category": 0,
            "url": "",
            "start time": 0.0,
            "end time": seconds,
            "split": split,
        }
        for number, (name, split) in enumerate(zip(names, splits, strict=True))
    ]
    pairs = [(name, caption) for name, texts in zip(names, captions, strict=True) for caption in texts]
    sentences = [
        {"sen_id": number, "video_id": name, "caption": caption}
        for number, (name, caption) in enumerate(pairs)
    ]
    info = {"description": "petl_bench fixture in the layout of MSR-VTT; generated shapes, not MSR-VTT"}
    document = {"info": info, "videos": videos, "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    by_split = {
        split: [name for name, own in zip(names, splits, strict=True) if own == split]
        for split in ("train", "validate", "test")
    }
    lists = {
        "MSRVTT_train.9k.csv": names[:num_train],
        "MSRVTT_train.7k.csv": by_split["train"] + by_split["validate"],
        "MSRVTT_train.full.csv": by_split["train"],
        "MSRVTT_val.full.csv": by_split["validate"],
        "MSRVTT_test.full.csv": by_split["test"],
    }
    for file, members in lists.items():
        _write_csv(folder / file, ["video_id"], ([name] for name in members))
    test = enumerate(zip(range(num_train, len(names)), captions[num_train:], strict=True))
    _write_csv(
        folder / "MSRVTT_JSFUSION_test.csv",
        ["key", "vid_key", "video_id", "sentence"],
        ([f"ret{row}", f"msr{number}", f"video{number}", texts[0]] for row, (number, texts) in test),
    )


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _render(scene: Scene, rng: np.random.Generator, half: int, size: int) -> np.ndarray:
    """Draws a clip of 2 * half frames: uint8 (F, size, size, 3)."""
    radius = size * rng.uniform(0.13, 0.17)
    travel = size * rng.uniform(0.40, 0.50)
    margin = radius + travel / 2
    centre = rng.uniform(margin, size - margin, size=2)
    grey = rng.uniform(60, 110) + rng.normal(0, 4, size=(size, size, 1))

    steps = np.linspace(0, travel, half)[:, None]  # (half, 1)
    first, second = np.array(DIRECTIONS[scene.first]), np.array(DIRECTIONS[scene.second])
    track = np.concatenate([-first * steps[::-1], second * steps])  # (F, 2), 0 at the turn
    track += centre - (track.min(axis=0) + track.max(axis=0)) / 2

    pixels = np.arange(size) + 0.5
    x = pixels[None, None, :] - track[:, 0, None, None]  # (F, 1, size)
    y = pixels[None, :, None] - track[:, 1, None, None]  # (F, size, 1)
    inside = np.clip(0.5 - _distance(scene.shape, x, y, radius), 0, 1)[..., None]  # antialiased edge
    frames = grey * (1 - inside) + np.array(COLOURS[scene.colour]) * inside
    return frames.round().clip(0, 255).astype(np.uint8)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance in pixels to the edge of a shape centred at 0, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    slanted = np.abs(x) * np.sqrt(0.8) - (y + radius) * np.sqrt(0.2)  # apex at the top, sides of slope 2
    return np.maximum(slanted, y - 0.9 * radius)


def _encode(path: Path, frames: np.ndarray, fps: int) -> None:
    # Bitexact and one thread: nothing in the file depends on the machine or the time.
    with av.open(
        str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}
    ) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # Constant quantiser: with rate control, x264 plans ahead in a way that differs from run to run.
        stream.options = {"qp": "18", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
