"""F35 to F44: frames that are not where, when and what a header says, and files that mean harm.

The frames of most clips carry their number as a bar code. `petl-bench data cache` and `petl-bench data verify` are run
once on all of them, and each trial looks at what they made of its clip.
"""

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image
from safetensors import safe_open

from benchmarks.faults.trials import HELD, PATIENCE, PETL_BENCH, Bench, Ended, Trial, completed, first_problem, refused
from petl_bench.data.cache import Profile

_BITS, _BAR = 7, 16
_WIDTH = _HEIGHT = _BITS * _BAR  # square, so that nothing is cropped


def _barcode(number: int) -> np.ndarray:
    bits = np.array([255 * (number >> bit & 1) for bit in range(_BITS)], np.uint8)
    return np.broadcast_to(np.repeat(bits, _BAR)[None, :, None], (_HEIGHT, _WIDTH, 3)).copy()


def _four_colours(_: int) -> np.ndarray:
    """Red and green above blue and white."""
    image = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    rows, columns = _HEIGHT // 2, _WIDTH // 2
    image[:rows, :columns], image[:rows, columns:], image[rows:, :columns] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return image


#: milliseconds at which frames are shown: a slide show that ends as a video; ten frames per second
_SLIDES = (*range(0, 9000, 900), *range(9000, 10_000, 20))
_STEADY = tuple(range(0, 4000, 100))


class Made(NamedTuple):
    """How a clip is written.

    Attributes:
        name: of the file; the header of all says 25 frames per second where that is a word of its own.
        times: milliseconds at which frames are shown.
        codec: of FFmpeg.
        pixels: likewise.
        ticks: of the clock, per second.
        matrix: a, b, c, d of the display matrix.
        cover: whether a picture is beside the video.
        picture: of each frame, (H, W, 3).
    """

    name: str
    times: Sequence[int] = _SLIDES
    codec: str = "libx264"
    pixels: str = "yuv420p"
    ticks: int = 1000
    matrix: tuple[float, float, float, float] | None = None
    cover: bool = False
    picture: Callable[[int], np.ndarray] = _barcode


_coloured_clip = partial(Made, times=_STEADY, picture=_four_colours)
#: by fault and row of the bug reports: whose frames each second must have
TIMED = {
    ("F35", "V1c variable rate in Matroska"): Made("matroska.mkv"),
    ("F35", "V1c variable rate in WebM"): Made("webm.webm", codec="libvpx-vp9"),
    ("F35", "V1d slide show in Matroska"): Made("slides.mkv", range(0, 9000, 450)),
    ("F35", "V1f variable rate in FLV"): Made("flash.flv"),
    ("F35", "V1j variable rate in mp4"): Made("movie.mp4"),
    ("F35", "V1 variable rate in a transport stream"): Made("stream.ts"),
    ("F35", "V1 variable rate in WMV"): Made("windows.wmv", codec="wmv2"),
    ("F35", "V1 variable delays in GIF"): Made("moving.gif", codec="gif", pixels="rgb8", ticks=100),
    ("F36", "V1e dropped frames in AVI"): Made(
        "dropped.avi", (0, 100, 200, 900, 1000, 1100, 1900), "mjpeg", "yuvj420p", 10
    ),
    ("F38", "V3 time lapse, a frame every 2 s"): Made("lapse2.mp4", range(0, 40_000, 2000)),
    ("F38", "V3 time lapse, a frame every 90 s"): Made("lapse90.mp4", range(0, 450_000, 90_000)),
    ("F38", "V4 fewer frames per second than frame_rate"): Made("slow.mkv", range(0, 15_000, 1250)),
    ("F39", "V5a cover as a second video stream"): Made("covered.mp4", _STEADY, cover=True),
}
#: by fault and row: how it must look in all four corners
COLOURED = {
    ("F37", "V2a mirrored"): (_coloured_clip("mirrored.mp4", matrix=(-1, 0, 0, 1)), "GR/WB"),
    ("F37", "V2b upside down, mirrored"): (_coloured_clip("flipped.mp4", matrix=(1, 0, 0, -1)), "BW/RG"),
    ("F37", "V2c transposed"): (_coloured_clip("transposed.mp4", matrix=(0, 1, 1, 0)), "RB/GW"),
    ("F37", "V2 turned by 90 degrees"): (_coloured_clip("turned.mp4", matrix=(0, 1, -1, 0)), "BR/WG"),
    ("F39", "V5d yuv444"): (_coloured_clip("yuv444.mp4", pixels="yuv444p"), "RG/BW"),
    ("F39", "V5d 16 bits"): (_coloured_clip("deep.mkv", codec="ffv1", pixels="gbrp16le"), "RG/BW"),
    ("F39", "V5d transparency"): (_coloured_clip("alpha.mov", codec="prores_ks", pixels="yuva444p10le"), "RG/BW"),
}
#: by fault and row: what the verifier must say of a bad file
BAD = {
    ("F37", "V2 shown at 45 degrees"): (
        Made("slanted.mp4", _STEADY, matrix=(0.7, 0.7, -0.7, 0.7)),
        "its display matrix",
    ),
    ("F41", "a codec that nobody uses"): (
        Made("odd.avi", _STEADY, "magicyuv", ticks=10),
        "its codec, magicyuv, is none",
    ),
    ("F42", "a list of other files, named .mp4"): (Made("list.mp4"), "its container is none of those"),
}
#: by row: an EXIF block of a picture whose pixels are sound
EXIF = {
    "I1b EXIF rational as text": b"II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x1a\x01\x02\0\x04\0\0\0"
    + b"72/1"
    + bytes(4),
    "I1c junk in place of EXIF": b"junk",
    "I1 EXIF cut short": b"II*\0\x08\0\0\0\x02\0\x12\x01",
}


def trials() -> Iterator[Trial]:
    """All of them."""
    for (fault, name), made in TIMED.items():
        yield Trial(fault, name, partial(_timed, made))
    for (fault, name), (made, corners) in COLOURED.items():
        yield Trial(fault, name, partial(_coloured, made, corners))
    for (fault, name), (made, told) in BAD.items():
        yield Trial(fault, name, partial(_bad, made, told))
    yield Trial("F35", "V1 a clock that goes back", _joined)
    for name in EXIF:
        yield Trial("F40", name, partial(_exif, name))
    yield Trial("F43", "frame cache of other reading rules", _former_cache)
    yield Trial("F44", "decord is opened only if asked for", _decord)


def _timed(made: Made, bench: Bench) -> str:
    """The cache holds the frames that are shown at each second; how long the last one is shown differs."""
    if problem := completed(_once(bench, _cached)[0]):
        return problem
    seconds = range(made.times[-1] // 1000 + 1)
    shown = {max(n for n, time in enumerate(made.times) if time <= 1000 * second) for second in seconds}
    found = {_number(frame) for frame in _frames(bench, made)}
    last = {len(made.times) - 1}
    return HELD if found | last == shown | last else f"shown at the seconds: {sorted(shown)}, found: {sorted(found)}"


def _coloured(made: Made, corners: str, bench: Bench) -> str:
    if problem := completed(_once(bench, _cached)[0]):
        return problem
    found = {_corners(frame) for frame in _frames(bench, made)}
    return HELD if found == {corners} else f"{found} instead of {corners}"


def _bad(made: Made, told: str, bench: Bench) -> str:
    ended, _ = _once(bench, _verified)
    return first_problem(refused(ended, 4, made.name), refused(ended, 4, told))


def _joined(bench: Bench) -> str:
    """Two recordings in one file: no seconds can be found, every frame can be read."""
    whole = bench.new() / "stream.ts"
    _write(whole, Made(whole.name))
    root = _dataset(bench, [])
    (root / "videos" / "joined.ts").write_bytes(2 * whole.read_bytes())
    _list(root)
    options = (f"--cache={bench.new()}", "--backbone=backbone/clip_tiny.yaml")
    return first_problem(
        refused(_data(bench, "cache", root, *options), 4, "--data.init_args.frame_rate null"),
        completed(_data(bench, "cache", root, *options, "--data.init_args.frame_rate=null")),
    )


def _exif(name: str, bench: Bench) -> str:
    ended, root = _once(bench, _pictures)
    entries = {Path(entry["path"]): entry for entry in map(json.loads, (root / "manifest.jsonl").open())}
    given = _by_block(root)[name]
    refusals = {entries[path.relative_to(root)]["reason"] for path in given}
    return first_problem(completed(ended), HELD if refusals == {""} else f"{refusals}")


def _former_cache(bench: Bench) -> str:
    """What a cache of the rules before holds is kept where it is read alike, else named and made again."""
    clips = [Made("plain.mp4", _STEADY), Made("variable.mkv")]
    root, folder = _dataset(bench, clips), bench.new("cache")
    options = (f"--cache={folder}", "--backbone=backbone/clip_tiny.yaml")
    ended = _data(bench, "cache", root, *options)
    (profile,) = folder.glob("*/profile.json")
    former = Profile(**json.loads(profile.read_text())).sha256_of_rules_1
    profile.parent.rename(folder / former[:16])
    again = _data(bench, "cache", root, *options)
    told = ("1 kept, 1 renewed", "made again: variable.mkv")
    missing = [text for text in told if text not in again.text]
    return first_problem(completed(ended), completed(again), f"not told: {missing}" if missing else HELD)


def _decord(bench: Bench) -> str:
    """A module of that name leaves a mark when it is imported."""
    root, decoy = _dataset(bench, [Made("plain.mp4", _STEADY)]), bench.new("decoy")
    (decoy / "decord.py").write_text(f"open({str(decoy / 'mark')!r}, 'w')\nraise ImportError('a decoy')\n")
    path = f"{decoy}:{Path(__file__).parents[2]}"
    without = _data(bench, "verify", root, path=path)
    if problem := completed(without):
        return problem
    if (decoy / "mark").exists():
        return "decord was imported by data verify"
    _data(bench, "verify", root, "--compare=decord", path=path)
    return HELD if (decoy / "mark").exists() else "--compare decord did not import it: the trial shows nothing"


# --- what the commands are given and give --------------------------------------------------------------------------


def _data(
    bench: Bench, command: str, root: Path, *more: str, config: str = "data/custom.yaml", path: str | None = None
) -> Ended:
    """`petl-bench data COMMAND` of a dataset, perhaps with another PYTHONPATH."""
    options = [f"--config={config}", f"--data.root={root}", "--data.init_args.partial=true", "--workers=1"]
    environment = {} if path is None else {"PYTHONPATH": path}
    return bench.run([*PETL_BENCH, "data", command, *options, *more], PATIENCE, **environment)


def _once(bench: Bench, give: Callable[[Bench], tuple[Ended, Path]]) -> tuple[Ended, Path]:
    """What a command that several trials look at gave for a bench, and its folder."""
    key = (bench.folder, give.__name__)
    if key not in _GIVEN:
        _GIVEN[key] = give(bench)
    return _GIVEN[key]


_GIVEN: dict[tuple[Path, str], tuple[Ended, Path]] = {}


def _cached(bench: Bench) -> tuple[Ended, Path]:
    """`petl-bench data cache` of one frame per second of all good clips, and the folder."""
    root = _dataset(bench, [*TIMED.values(), *(made for made, _ in COLOURED.values())])
    folder = bench.new("cache")
    return _data(bench, "cache", root, f"--cache={folder}", "--backbone=backbone/clip_tiny.yaml"), folder


def _verified(bench: Bench) -> tuple[Ended, Path]:
    """`petl-bench data verify` of all bad ones."""
    root = _dataset(bench, [made for made, _ in BAD.values()])
    (root / "videos" / "list.mp4").write_text("ffconcat version 1.0\nfile slanted.mp4\n")
    return _data(bench, "verify", root), root


def _pictures(bench: Bench) -> tuple[Ended, Path]:
    """`petl-bench data verify` of pictures with damaged EXIF blocks."""
    root = bench.new("pictures") / "flickr30k"
    size = ["--train-videos=8", "--test-videos=8"]
    bench.run([*PETL_BENCH, "fixture", str(root), "--layout=flickr30k", *size])
    for name, pictures in _by_block(root).items():
        for picture in pictures:
            _give_exif(picture, EXIF[name])
    return _data(bench, "verify", root, config="data/flickr30k.yaml"), root


def _by_block(root: Path) -> dict[str, list[Path]]:
    """Which pictures get which EXIF block."""
    pictures = sorted(path for path in (root / "images").rglob("*") if path.is_file())
    return {name: pictures[place :: len(EXIF)] for place, name in enumerate(EXIF)}


def _frames(bench: Bench, made: Made) -> np.ndarray:
    """(n, S, S, 3) that the cache has of a clip."""
    _, folder = _once(bench, _cached)
    lines = next(folder.glob("*/sources.jsonl")).read_text().split("\n")
    sources = {Path(source["path"]).name: source["sha256"] for line in lines if line for source in [json.loads(line)]}
    (path,) = folder.glob(f"*/*/{sources[made.name]}.safetensors")
    with safe_open(path, "np") as file:
        return file.get_tensor("frames").transpose(0, 2, 3, 1)


def _dataset(bench: Bench, clips: Sequence[Made]) -> Path:
    root = bench.new("clips")
    (root / "videos").mkdir()
    for made in clips:
        _write(root / "videos" / made.name, made)
    _list(root)
    return root


def _list(root: Path) -> None:
    """Writes the annotation files of the clips that are there."""
    for split in ("train", "test"):
        with (root / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([("video", "caption"), *((path.stem, "a clip") for path in (root / "videos").iterdir())])


def _write(path: Path, made: Made) -> None:
    with av.open(str(path), "w") as container:
        stream = _video(container, made.codec, made.pixels)
        stream.codec_context.time_base = Fraction(1, made.ticks)
        if made.matrix:
            a, b, c, d = (round(value * 65536) for value in made.matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        cover = _video(container, "mjpeg", "yuvj420p") if made.cover else None
        if cover is not None:
            cover.disposition = Disposition.attached_pic
            container.mux([*cover.encode(_frame(_four_colours(0), "yuvj420p", 0)), *cover.encode()])
        for number, time in enumerate(made.times):
            frame = _frame(made.picture(number), made.pixels, time * made.ticks // 1000)
            frame.time_base = Fraction(1, made.ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _video(container: OutputContainer, codec: str, pixels: str) -> VideoStream:
    stream = container.add_stream(codec, rate=25)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, pixels
    return stream


def _frame(image: np.ndarray, pixels: str, time: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
    frame.pts = time
    return frame


def _number(frame: np.ndarray) -> int:
    size = len(frame)
    middles = [int((bit + 0.5) * size / _BITS) for bit in range(_BITS)]
    return sum(1 << bit for bit, x in enumerate(middles) if frame[size // 4 : -size // 4, x - 1 : x + 2].mean() > 127)


def _corners(frame: np.ndarray) -> str:
    """The colours of the four corners."""
    names = {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B", (True, True, True): "W"}
    place = len(frame) // 8
    colours = [names.get(tuple((frame[y, x] > 127).tolist()), "?") for y in (place, -place) for x in (place, -place)]
    return f"{''.join(colours[:2])}/{''.join(colours[2:])}"


def _give_exif(path: Path, block: bytes) -> None:
    """Puts an EXIF block into a picture, which becomes a PNG whatever its name."""
    whole = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(whole, "PNG")
    png, chunk = whole.getvalue(), b"eXIf" + block
    length, checksum = struct.pack(">I", len(block)), struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(png[:33] + length + chunk + checksum + png[33:])
