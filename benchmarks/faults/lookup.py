"""F48, F49: names in annotations that may stand for several files, or for none at first sight (rows N1 to N8, A10)."""

import json
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.faults.stopping import perform
from benchmarks.faults.trials import HELD, Bench, Trial
from benchmarks.faults.warm import Outcome, Try
from petl_bench.data.clip_files import VIDEO_SUFFIXES, ClipFiles

NFC, NFD = (unicodedata.normalize(form, "Café_niño.mp4") for form in ("NFC", "NFD"))  # type: ignore[arg-type]  # both are forms
_MANY = 50_000


def trials() -> Iterator[Trial]:
    """All of them: which files there are, what the annotation says, and which of them is to be read."""
    for name, there, asked, expected in (
        ("N1 one name in two folders", ("a_low/clip1.mp4", "b_high/clip1.mp4"), "b_high/clip1.mp4", "b_high/clip1.mp4"),
        ("N1 with the folder of clips", ("a/clip1.mp4", "b/clip1.mp4"), "videos/b/clip1.mp4", "b/clip1.mp4"),
        ("N1 without suffix", ("a/clip1.mp4", "b/clip1.mp4"), "b/clip1", "b/clip1.mp4"),
        ("N2 one stem with two suffixes", ("clip1.mp4", "clip1.mkv"), "clip1.mkv", "clip1.mkv"),
        ("N2 an id with a dot", ("video.1.mp4", "video.mp4"), "video.1", "video.1.mp4"),
        ("N2 an id that ends like a file", ("x.mov.mp4", "x.mp4"), "x.mov", "x.mov.mp4"),
        ("N5 files NFD, annotation NFC", (NFD,), NFC.removesuffix(".mp4"), NFD),
        ("N5 files NFC, annotation NFD", (NFC,), NFD, NFC),
        ("N5 both forms exist", (NFC, NFD), NFD, NFD),
        ("separators of Windows", ("a/clip1.mp4", "b/clip1.mp4"), "b\\clip1.mp4", "b/clip1.mp4"),
    ):
        yield Trial("F48", name, partial(_read, there, asked, expected))
    for name, there, asked, told in (
        ("N1 the folder is left out", ("a/clip1.mp4", "b/clip1.mp4"), "clip1.mp4", ("a/clip1.mp4", "b/clip1.mp4")),
        ("N1 another folder", ("a/clip1.mp4",), "b/clip1.mp4", ("in place of 'clip1' there is 'a/clip1.mp4'",)),
        ("N2 the suffix is left out", ("clip1.mp4", "clip1.mkv"), "clip1", ("clip1.mp4", "clip1.mkv")),
        ("other letters", ("Clip1.mp4",), "clip1", ("in place of 'clip1' there is 'Clip1.mp4', in other letters",)),
        ("misspelt", ("interview.mp4",), "intervew", ("in place of 'intervew' there is 'interview.mp4'",)),
        ("no clip", ("clip1.part",), "clip1", ("'clip1.part', no clip by its suffix",)),
        ("leads out of the folder", ("clip1.mp4",), "../clip1.mp4", ("line 2", "not inside the folder of clips")),
        ("absolute", ("clip1.mp4",), "/etc/clip1.mp4", ("line 2", "absolute path")),
    ):
        yield Trial("F49", f"{name}: refused", partial(_refused, there, asked, told))
    yield Trial("F48", "N3 clips in a linked folder, links in circles", _linked)
    yield Trial("F48", "N8 a folder of 50,000 files", _many)
    yield Trial("F48", "A10 still images, mixed with videos", _stills)


def _dataset(bench: Bench, there: Sequence[str], asked: Sequence[str]) -> Path:
    """Clips of one's own: real ones under new names, each named for training, and one for the test."""
    root = bench.new("own")
    clips = sorted((bench.data / "videos").glob("*.mp4"))
    for clip, name in zip(clips, (*there, "tested.mp4"), strict=False):
        path = root / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    rows = [{"video": name, "caption": f"a caption of {number}"} for number, name in enumerate(asked)]
    table = "video,caption\n" + "".join(f"{row['video']},{row['caption']}\n" for row in rows)
    (root / "train.csv").write_text(table, encoding="utf-8")
    (root / "test.csv").write_text("video,caption\ntested,the last one\n", encoding="utf-8")
    return root


def _cached(bench: Bench, root: Path) -> tuple[Outcome, set[str]]:
    """What `data cache` says of a dataset, and the files that it has read: those that training would."""
    options = ["--config=data/custom.yaml", "--backbone=backbone/clip_tiny.yaml", "--workers=0"]
    arguments = ["data", "cache", *options, f"--data.root={root}", f"--cache={root / 'cache'}"]
    outcome = perform(bench, Try(str(bench.new("try")), arguments, number=0))
    lines = [line for path in root.glob("cache/*/sources.jsonl") for line in path.read_text().splitlines() if line]
    read = {Path(json.loads(line)["path"]).relative_to(root / "videos").as_posix() for line in lines}
    return outcome, read - {"tested.mp4"}


def _read(there: Sequence[str], asked: str, expected: str, bench: Bench) -> str:
    outcome, read = _cached(bench, _dataset(bench, there, [asked]))
    return HELD if outcome.code == 0 and read == {expected} else f"read {read}: {outcome.text[-300:]}"


def _refused(there: Sequence[str], asked: str, told: Sequence[str], bench: Bench) -> str:
    outcome, _ = _cached(bench, _dataset(bench, there, [asked]))
    (line,) = [line for line in outcome.text.splitlines() if "petl-bench: error: " in line] or [""]
    if outcome.code != 4 or "Traceback" in outcome.text:
        return f"exit code {outcome.code}: {outcome.text[-300:]}"
    missing = [word for word in told if word not in line]
    return f"{missing} not in {line}" if missing else HELD


def _linked(bench: Bench) -> str:
    root = _dataset(bench, ("clip1.mp4",), ["clip1", "link/s10.mp4", "s11"])
    store = bench.new("store")
    for name in ("s10.mp4", "deep/s11.mp4"):
        (store / name).parent.mkdir(exist_ok=True)
        shutil.copy(next((bench.data / "videos").glob("*1.mp4")), store / name)
    (root / "videos" / "link").symlink_to(store, target_is_directory=True)
    (root / "videos" / "again").symlink_to(root / "videos", target_is_directory=True)
    (store / "deep" / "up").symlink_to(store, target_is_directory=True)
    outcome, read = _cached(bench, root)
    expected = {"clip1.mp4", "link/s10.mp4", "link/deep/s11.mp4"}
    return HELD if outcome.code == 0 and read == expected else f"read {read}: {outcome.text[-300:]}"


def _stills(bench: Bench) -> str:
    """Whatever the frame rate and the sampling; a run on them ends."""
    names = ["1000000000.jpg", "b.png", "c.webp", "deep/d.JPEG", "clip1.mp4"]
    root = _dataset(bench, ("clip1.mp4",), names)
    for place, name in enumerate(names[:-1]):
        path = root / "videos" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (90 + place, 70), (40 * place, 90, 10)).save(path)
    outcome, read = _cached(bench, root)
    if outcome.code or read != set(names):
        return f"read {read}: {outcome.text[-300:]}"
    own = ["--data=data/custom.yaml", f"--data.init_args.root={root}", "--data.init_args.batch_size=2"]
    options = ["--data.init_args.num_workers=0", "--trainer.max_epochs=1", f"--runs_dir={root / 'runs'}"]
    for more in ((), ("--data.init_args.frame_rate=3", "--data.init_args.sampling=segment_random")):
        arguments = ["fit", "--config=fixture_linear", "--model.init_args.backbone=backbone/clip_tiny.yaml"]
        fit = perform(bench, Try(str(bench.new("try")), [*arguments, *own, *options, *more], number=0))
        if fit.code:
            return f"exit code {fit.code}: {fit.text[-300:]}"
    return HELD


def _many(bench: Bench) -> str:
    """All in a few folders, or each in its own under one name; as many names are missing. Time grows with the files."""
    for layout, asked, most in (
        ("{part}/clip{number}.mp4", "clip{number}", _MANY),
        ("id{number}/video.mp4", "id{number}/video", _MANY // 5),  # folders take long to make
    ):
        took = {}
        for count in (most // 5, most):
            folder = bench.new("many")
            for number in range(count):
                path = folder / layout.format(part=number % 50, number=number)
                path.parent.mkdir(exist_ok=True)
                path.touch()
            names = [asked.format(number=number) for number in range(2 * count)]
            took[count] = _seconds(partial(_look_up, folder, names))
            shutil.rmtree(folder)
        if took[most] > 8 * took[most // 5]:
            return f"{layout}: " + ", ".join(f"{seconds:.1f} s for {count} files" for count, seconds in took.items())
    return HELD


def _look_up(folder: Path, names: Sequence[str]) -> None:
    clips = ClipFiles(folder, VIDEO_SUFFIXES, lambda path: path.stem)
    missing = [name for name in names if clips.find([name]) is None]
    assert len(clips.paths) == len(missing) == len(names) // 2
    for name in missing[:3]:  # as many as messages have hints of
        clips.hint(name)


def _seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
