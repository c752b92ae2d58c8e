"""Generates small datasets in the MSR-VTT layout, so that everything runs without downloads.

Layout `msrvtt`: each clip shows one coloured shape that moves first in one direction and then in another; its
captions name colour, shape and the order of the motions ("a red circle moves left, then up"). No training video
shows a combination of the test set, but every colour, shape and motion of the test set occurs in training.

The test set takes one pair of colour and shape after the other, each with all 12 motions. So knowing colour and
shape gives a recall at 1 of about 8 %. A clip and its reversal ("left, then up" and "down, then right") consist
of the same frames in the opposite order, so a method that averages over frames cannot tell the two apart: more
than about 50 % needs temporal modelling.

Beside them lie questions about the same clips in the layout of MSRVTT-QA ("which way does the red circle move
first?"). Colour and shape can be told from any frame. But no training clip shows the shape of a test clip in its
colour, so a method that guesses the shape from the colour scores less than chance. Of what is asked about motions,
about half cannot be told without the order of the frames.

Layout `stills`: clips of a single frame with a resting shape, whose captions name colour, shape and place ("a red
circle at the top left"). A CLIP pretrained on them knows pictures and words, but no motion, as a real CLIP does
when it first sees video. Training and test share combinations, not renderings.
"""

import argparse
import csv
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
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
#: what is asked about each clip, and the field of its `Scene` that answers it
QUESTIONS = (
    ("what colour is the {shape}?", "colour"),
    ("what shape moves?", "shape"),
    ("which way does the {colour} {shape} move first?", "first"),
    ("which way does the {colour} {shape} move then?", "second"),
)
#: offset of a still shape from the picture's centre, in steps, and how captions say it
PLACES = {
    "centre": ((0, 0), ("in the centre", "in the middle")),
    "left": ((-1, 0), ("on the left", "at the left edge")),
    "right": ((1, 0), ("on the right", "at the right edge")),
    "top": ((0, -1), ("up at the top", "at the top edge")),
    "bottom": ((0, 1), ("down at the bottom", "at the bottom edge")),
    "top left": ((-1, -1), ("at the top left", "up on the left")),
    "top right": ((1, -1), ("at the top right", "up on the right")),
    "bottom left": ((-1, 1), ("at the bottom left", "down on the left")),
    "bottom right": ((1, 1), ("at the bottom right", "down on the right")),
}
STILL_TEMPLATES = (
    "a {colour} {shape} {place}",
    "the {colour} {shape} is {place}",
    "a {shape} in {colour} {place}",
    "{colour} {shape} resting {place}",
)


class Scene(NamedTuple):
    """What one moving clip shows."""

    colour: str
    shape: str
    first: str
    second: str


class Still(NamedTuple):
    """What one still clip shows; `place` is a key of `PLACES`."""

    colour: str
    shape: str
    place: str


class FixtureSummary(NamedTuple):
    """What was written."""

    folder: Path
    train_videos: int
    test_videos: int
    captions: int


def write_fixture(
    folder: Path,
    *,
    seed: int = 0,
    train_videos: int = 432,
    test_videos: int = 72,
    captions_per_video: int = 3,
    size: int = 48,
    seconds: float = 3,
    fps: int = 6,
) -> FixtureSummary:
    """Writes annotation files and H.264 clips; the same arguments give the same files on the same machine.

    `video0 ..` are training videos, the last `test_videos` are the test set `MSRVTT_JSFUSION_test.csv`. As in
    MSR-VTT, the 9k list holds all training videos, the 7k list the full train and full validation ones among
    them, and the full test set adds the rest to the test videos.

    Questions are in `train_qa.json`, `val_qa.json` and `test_qa.json`. Unlike in MSRVTT-QA, those of the test split are
    about the last `test_videos` only, whose combinations no training video shows.

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
    _check_arguments(train_videos, test_videos, captions_per_video, len(TEMPLATES), size)
    if half < 2:
        raise UsageError("--seconds and --fps: a clip needs at least 4 frames, 2 for each motion")
    rng = np.random.default_rng(seed)
    test = _test_scenes(rng, test_videos)
    train = _train_scenes(rng, test, train_videos)
    scenes = train + test
    captions = [_captions(rng, scene, captions_per_video) for scene in scenes]

    def clip(number: int, scene: Scene) -> np.ndarray:
        # A test clip and its reversal share background and track, so that only the order of frames differs.
        place = [seed, 0, number] if number < len(train) else [seed, 1, *_family_member(scene)]
        return _render(scene, np.random.default_rng(place), half, size)

    clips = (clip(number, scene) for number, scene in enumerate(scenes))
    summary = _write_dataset(folder, seed, len(train), captions, clips, num_frames=2 * half, fps=fps)
    _write_questions(folder, len(train), scenes)
    return summary


def write_stills(
    folder: Path,
    *,
    seed: int = 0,
    train_videos: int = 1728,
    test_videos: int = 162,
    captions_per_video: int = 3,
    size: int = 48,
) -> FixtureSummary:
    """Writes clips of one frame, which teach a small CLIP colours, shapes and places; files as `write_fixture`.

    Every test video shows another combination. Training videos show all combinations equally often, so the test
    set holds new renderings, not new combinations.

    Args:
        folder: Created; may exist only if empty.
        seed: Determines everything.
        train_videos: At least 4.
        test_videos: 1 to 162.
        captions_per_video: 1 to 8, each worded differently.
        size: Height and width in pixels, even and at least 32.

    Raises:
        UsageError: The folder is not empty, an argument is out of range, or PyAV cannot encode H.264.
    """
    stills = [Still(*values) for values in product(COLOURS, SHAPES, PLACES)]
    phrases = min(len(phrases) for _, phrases in PLACES.values())
    _check_arguments(train_videos, test_videos, captions_per_video, len(STILL_TEMPLATES) * phrases, size)
    if test_videos > len(stills):
        raise UsageError(f"--test-videos {test_videos}: there are {len(stills)} different stills")
    rng = np.random.default_rng(seed)
    train = [stills[index % len(stills)] for index in rng.permutation(train_videos)]
    test = [stills[index] for index in rng.permutation(len(stills))[:test_videos]]
    captions = [_still_captions(rng, still, captions_per_video) for still in train + test]
    clips = (
        _render_still(still, np.random.default_rng([seed, 2, number]), size)
        for number, still in enumerate(train + test)
    )
    return _write_dataset(folder, seed, train_videos, captions, clips, num_frames=1, fps=1)


#: layout -> what writes it; the keyword arguments are the options that the layout has
WRITERS: dict[str, Callable[..., FixtureSummary]] = {"msrvtt": write_fixture, "stills": write_stills}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `petl-bench fixture`; defaults are those of the layout's writer."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to create; may exist only if empty")
    parser.add_argument(
        "--layout", choices=list(WRITERS), default="msrvtt", help="what to write (default: %(default)s)"
    )
    _add_option(parser, "seed", int, "determines everything")
    _add_option(parser, "train_videos", int, "training clips")
    _add_option(parser, "test_videos", int, "test clips")
    _add_option(parser, "captions_per_video", int, "captions of a clip")
    _add_option(parser, "size", int, "height and width in pixels")
    _add_option(parser, "seconds", float, "length of a clip")
    _add_option(parser, "fps", int, "frames per second")


def run(args: argparse.Namespace) -> int:
    """Runs `petl-bench fixture` and prints one line about what was written.

    Raises:
        UsageError: The layout has no such option, or its writer refuses the arguments.
    """
    options = {name: value for name, value in vars(args).items() if name not in ("folder", "layout")}
    writer = WRITERS[args.layout]
    for name in options.keys() - inspect.signature(writer).parameters.keys():
        raise UsageError(f"{_flag(name)}: layout {args.layout} has no such option; leave it out")
    summary = writer(args.folder, **options)
    print(
        f"wrote {summary.train_videos} training and {summary.test_videos} test videos"
        f" with {summary.captions} captions to {summary.folder}"
    )
    return 0


def _add_option(parser: argparse.ArgumentParser, name: str, kind: type, meaning: str) -> None:
    """Declares an option that is left out of the parsed arguments unless given."""
    parameters = {layout: inspect.signature(writer).parameters for layout, writer in WRITERS.items()}
    defaults = ", ".join(f"{layout} {known[name].default}" for layout, known in parameters.items() if name in known)
    parser.add_argument(_flag(name), type=kind, default=argparse.SUPPRESS, help=f"{meaning} (default: {defaults})")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _write_dataset(
    folder: Path,
    seed: int,
    num_train: int,
    captions: list[list[str]],
    clips: Iterable[np.ndarray],
    num_frames: int,
    fps: int,
) -> FixtureSummary:
    """Writes clips (num_frames, H, W, 3) in order, training videos first, with their annotations."""
    _require_encoder()
    _create_empty(folder)
    _write_annotations(folder, num_train, captions, seconds=num_frames / fps)
    (folder / MARK).write_text(f"seed {seed}\n", encoding="utf-8")
    (folder / "videos").mkdir()
    for number, frames in enumerate(clips):
        _encode(folder / "videos" / f"video{number}.mp4", frames, fps)
    return FixtureSummary(folder, num_train, len(captions) - num_train, sum(map(len, captions)))


def _check_arguments(
    train_videos: int, test_videos: int, captions_per_video: int, most_captions: int, size: int
) -> None:
    if train_videos < 4 or test_videos < 1:
        raise UsageError("--train-videos must be at least 4 and --test-videos at least 1")
    if not 1 <= captions_per_video <= most_captions:
        raise UsageError(f"--captions-per-video {captions_per_video}: choose 1 to {most_captions}")
    if size < 32 or size % 2:
        raise UsageError(f"--size {size}: choose an even number of at least 32 pixels")


def _require_encoder() -> None:
    try:
        Codec("libx264", "w")
    except UnknownCodecError as error:
        raise UsageError("this PyAV has no libx264 encoder; install the wheel from PyPI: pip install av") from error


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
    """All motions of one colour and shape, then of the next; 144 scenes leave each colour one shape to train on."""
    colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(SHAPES)
    looks = [
        (str(colour), str(shapes[(place + turn) % len(shapes)]))
        for turn in range(len(shapes))
        for place, colour in enumerate(colours)
    ]
    families = _families()
    scenes = [
        Scene(*look, *motion)
        for look in looks
        for family in rng.permutation(len(families))
        for motion in families[family]
    ]
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


def _still_captions(rng: np.random.Generator, still: Still, count: int) -> list[str]:
    pairs = list(product(STILL_TEMPLATES, PLACES[still.place][1]))
    chosen = (pairs[index] for index in rng.permutation(len(pairs))[:count])
    return [template.format(colour=still.colour, shape=still.shape, place=phrase) for template, phrase in chosen]


def _write_annotations(folder: Path, num_train: int, captions: list[list[str]], seconds: float) -> None:
    names = [f"video{number}" for number in range(len(captions))]
    num_validation = _num_validation(num_train)
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
        {"sen_id": number, "video_id": name, "caption": caption} for number, (name, caption) in enumerate(pairs)
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


def _num_validation(num_train: int) -> int:
    return max(num_train // 8, 1)


def _write_questions(folder: Path, num_train: int, scenes: Sequence[Scene]) -> None:
    num_validation = _num_validation(num_train)
    splits = ["train"] * (num_train - 2 * num_validation) + ["val"] * num_validation
    splits += ["train"] * num_validation + ["test"] * (len(scenes) - num_train)
    records: dict[str, list[dict[str, int | str]]] = {"train": [], "val": [], "test": []}
    asked = product(enumerate(zip(scenes, splits, strict=True)), QUESTIONS)
    for number, ((video, (scene, split)), (template, field)) in enumerate(asked):
        words = scene._asdict()
        question: dict[str, int | str] = {"category_id": 0, "video_id": video, "answer": words[field], "id": number}
        records[split].append(question | {"question": template.format(**words)})
    for split, questions in records.items():
        (folder / f"{split}_qa.json").write_text(json.dumps(questions, indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _render(scene: Scene, rng: np.random.Generator, half: int, size: int) -> np.ndarray:
    """Draws a clip of 2 * half frames: uint8 (F, size, size, 3)."""
    radius, background = _look(rng, size)
    travel = size * rng.uniform(0.50, 0.60)
    margin = radius + travel / 2
    centre = rng.uniform(margin, size - margin, size=2)

    steps = np.linspace(0, travel, half)[:, None]  # (half, 1)
    first, second = np.array(DIRECTIONS[scene.first]), np.array(DIRECTIONS[scene.second])
    track = np.concatenate([-first * steps[::-1], second * steps])  # (F, 2), 0 at the turn
    track += centre - (track.min(axis=0) + track.max(axis=0)) / 2

    return _draw(scene.colour, scene.shape, radius, track, background)


def _render_still(still: Still, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a clip of one frame: uint8 (1, size, size, 3)."""
    radius, background = _look(rng, size)
    offset, _ = PLACES[still.place]
    centre = size * (0.5 + 0.26 * np.array(offset) + rng.uniform(-0.06, 0.06, size=2))
    return _draw(still.colour, still.shape, radius, centre[None], background)


def _look(rng: np.random.Generator, size: int) -> tuple[float, np.ndarray]:
    """Radius of a shape in pixels, and the noisy grey (size, size, 1) behind it."""
    radius = size * rng.uniform(0.14, 0.18)
    return radius, rng.uniform(60, 110) + rng.normal(0, 4, size=(size, size, 1))


def _draw(colour: str, shape: str, radius: float, track: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Frames with the shape at each (x, y) of track (F, 2): uint8 (F, size, size, 3)."""
    pixels = np.arange(len(background)) + 0.5
    x = pixels[None, None, :] - track[:, 0, None, None]  # (F, 1, size)
    y = pixels[None, :, None] - track[:, 1, None, None]  # (F, size, 1)
    inside = np.clip(0.5 - _distance(shape, x, y, radius), 0, 1)[..., None]  # antialiased edge
    frames = background * (1 - inside) + np.array(COLOURS[colour]) * inside
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
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # Constant quantiser: with rate control, x264 plans ahead in a way that differs from run to run.
        stream.options = {"qp": "18", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
