"""Gives the suite bad configurations, annotation files, checkpoints and clips: each must be refused in one clear line.

    python -m benchmarks.faults.bad_inputs

Every case runs in a process of its own. It passes if that process ends by itself with the exit code of its kind, after
one line that names what is wrong; dying, hanging, a traceback and success are faults.
"""

import csv
import io
import json
import os
import pickle
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks.children import end_with
from petl_bench.main import main as petl_bench

#: seconds after which a case counts as hanging
PATIENCE = 60
#: exit codes of a refusal: configuration, data, checkpoint
REFUSALS = {"config": (2,), "annotation": (4,), "layout": (4,), "checkpoint": (5,), "clip": (4,), "picture": (4,)}
TINY = "--model.init_args.backbone=backbone/clip_tiny.yaml"


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        kind: a key of `REFUSALS`.
        name: of the fault.
        arguments: of petl-bench.
        told: what the message has to hold.
    """

    kind: str
    name: str
    arguments: list[str]
    told: str


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (str(self.mark), os.O_CREAT)


def configurations(folder: Path, mark: Path) -> Iterator[Case]:
    """Wrong files and wrong values."""
    files = {
        "random bytes": bytes(range(128, 256)),
        "empty": b"",
        "a list": b"[1, 2]\n",
        "cut YAML": b"model: {class_path: methods.linear.Lin",
        "a key twice": b"seed_everything: 0\nseed_everything: 1\n",
        "a tag that runs": f"seed_everything: !!python/object/apply:os.system ['touch {mark}']\n".encode(),
        "a class from outside": b"model: {class_path: evilmod.C}\n",
        "a fragment that is missing": b"model: nowhere/model.yaml\n",
    }
    for name, content in files.items():
        path = folder / f"{name.replace(' ', '_')}.yaml"
        path.write_bytes(content)
        told = "nowhere/model.yaml" if "fragment" in name else path.name
        yield Case("config", name, ["fit", "--config=fixture_linear", f"--config={path}"], told)
    values = {
        "unknown option": ("--model.init_args.botleneck_dim=3", "botleneck_dim"),
        "rate that is no number": ("--model.init_args.optimizer.init_args.lr=.nan", "lr"),
        "negative rate": ("--model.init_args.optimizer.init_args.lr=-1", "lr"),
        "batch of nothing": ("--data.init_args.batch_size=0", "batch_size"),
        "no frames": ("--data.init_args.frames=-3", "frames"),
        "unknown sampling": ("--data.init_args.sampling=middle", "sampling"),
        "a function to call": ("--trainer.callbacks+=os.system", "os.system"),
        "unknown precision": ("--trainer.precision=8", "precision"),
        "no seed": ("--seed_everything=true", "seed"),
    }
    for name, (option, told) in values.items():
        yield Case("config", name, ["fit", "--config=fixture_linear", TINY, option], told)


def annotation_files(data: Path, folder: Path) -> Iterator[Case]:
    """Damaged copies of the annotation files of an MSR-VTT layout."""
    captions, test, train = "MSRVTT_data.json", "MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv"
    rows = list(csv.DictReader(io.StringIO((data / test).read_text())))
    video, sentences = rows[0]["video_id"], json.loads((data / captions).read_text())["sentences"]

    def table(*changed: dict[str, str]) -> bytes:
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(changed)
        return out.getvalue().encode()

    def listed(sentences: object) -> bytes:
        return json.dumps({"sentences": sentences}).encode()

    damaged = {
        "not there": (test, None, test),
        "empty file": (test, b"", test),
        "not UTF-8": (test, (data / test).read_bytes() + b"ret9,msr9,video9,caf\xe9\n", test),
        "column missing": (test, b"video\nvideo1\n", "video_id"),
        "record cut": (test, (data / test).read_bytes().rpartition(b",video")[0] + b",vid", test),
        "video twice": (test, table(*rows, rows[0]), video),
        "caption empty": (test, table(rows[0] | {"sentence": " "}, *rows[1:]), "line 2"),
        "video that is not there": (test, table(*rows, rows[0] | {"video_id": "video99999"}), "video99999"),
        "id with a path": (test, table(rows[0] | {"video_id": "../../etc/passwd"}, *rows[1:]), "passwd"),
        "id with a control character": (test, table(rows[0] | {"video_id": "a\tb\x1b"}, *rows[1:]), "file name"),
        "JSON cut": (captions, (data / captions).read_bytes()[:-300], captions),
        "JSON of another shape": (captions, b'{"videos": []}', captions),
        "record without caption": (captions, listed([{"video_id": "video0"}]), "caption"),
        "caption that is a number": (captions, listed([s | {"caption": 3} for s in sentences]), captions),
        "list of a video without captions": (train, b"video_id\nvideo424242\n", "video424242"),
        "HTML in place of a file": (captions, b"<html><body>404</body></html>", captions),
    }
    for name, (file, content, told) in damaged.items():
        root = folder / name.replace(" ", "_")
        shutil.copytree(data, root, copy_function=os.link)
        (root / file).unlink()
        if content is not None:
            (root / file).write_bytes(content)
        options = [TINY, "--trainer.max_epochs=1", "--data.init_args.num_workers=0", f"--data.init_args.root={root}"]
        yield Case("annotation", name, ["fit", "--config=fixture_linear", *options], told)


def checkpoints(data: Path, folder: Path, mark: Path) -> Iterator[Case]:
    """Damaged and foreign adapters and checkpoints of a short run."""
    runs = folder / "runs"
    options = [TINY, "--trainer.max_epochs=1", "--data.init_args.num_workers=0", f"--data.init_args.root={data}"]
    for method in ("linear", "bitfit"):
        fit = ["fit", f"--config=fixture_{method}", *options, "--trainer.enable_progress_bar=false"]
        if petl_bench([*fit, f"--runs_dir={runs / method}"]):
            raise RuntimeError(f"the run of {method} that is to be damaged failed")
    (good,) = (runs / "linear").rglob("adapter.safetensors")
    (other,) = (runs / "bitfit").rglob("adapter.safetensors")
    whole = good.read_bytes()
    damaged = {
        "not there": None,
        "empty": b"",
        "zeros": bytes(len(whole)),
        "text": b"not an adapter",
        "cut in half": whole[: len(whole) // 2],
        "header only": whole[:200],
        "header that claims too much": (2**62).to_bytes(8, "little") + whole[8:],
        "of another method": other.read_bytes(),
    }
    for name, content in damaged.items():
        place = folder / name.replace(" ", "_")
        place.mkdir()
        shutil.copy(good.parent / "config.yaml", place)
        path = place / "adapter.safetensors"
        if content is not None:
            path.write_bytes(content)
        yield Case("checkpoint", f"adapter {name}", ["test", f"--ckpt_path={path}"], place.name)
    bomb = folder / "bomb.ckpt"
    bomb.write_bytes(pickle.dumps(Bomb(mark)))
    yield Case(
        "checkpoint",
        "adapter that runs code",
        ["test", f"--config={good.parent / 'config.yaml'}", f"--ckpt_path={bomb}"],
        bomb.name,
    )
    torch.save({"state_dict": Bomb(mark)}, folder / "bomb.pt")
    for name in ("bomb.pt", "bomb.ckpt"):
        pretrained = f"--model.init_args.backbone.init_args.pretrained={folder / name}"
        yield Case(
            "checkpoint",
            f"weights that run code ({name})",
            ["fit", "--config=fixture_linear", *options, pretrained],
            name,
        )
    yield Case(
        "checkpoint",
        "weights at an address",
        ["fit", "--config=fixture_linear", *options, "--ckpt_path=http://127.0.0.1:9/last.ckpt"],
        "127.0.0.1",
    )


#: what a download leaves in place of a clip or picture
_NO_MEDIA = {
    "empty": b"",
    "zeros": bytes(5000),
    "text": b"neither a video nor a picture\n" * 100,
    "an HTML page": b"<html><body>404</body></html>",
}


def clips(data: Path, folder: Path) -> Iterator[Case]:
    """Files in place of a test clip."""
    name = next(csv.DictReader(io.StringIO((data / "MSRVTT_JSFUSION_test.csv").read_text())))["video_id"] + ".mp4"
    whole = (data / "videos" / name).read_bytes()
    damaged = {
        **_NO_MEDIA,
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        **{f"cut to {share} %": whole[: len(whole) * share // 100] for share in (1, 10, 50, 90, 99)},
        "half of it zeros": whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    }
    for fault, content in damaged.items():
        root = _damaged_copy(data, folder / fault.replace(" ", "_"), Path("videos") / name, content)
        yield Case("clip", fault, _tested("fixture", root), name)


def pictures(folder: Path) -> Iterator[Case]:
    """Files in place of a test image."""
    data = _generated("flickr30k", folder)
    name = json.loads((data / "flickr30k_test.json").read_text())[0]["image"]
    whole = (data / "images" / name).read_bytes()
    damaged = {
        **_NO_MEDIA,
        "cut to 10 %": whole[: len(whole) // 10],
        "cut to 50 %": whole[: len(whole) // 2],
        "header only": whole[:20],
        "PNG cut": _encoded("PNG")[:-30],
        "GIF by another name": _encoded("GIF"),
        "PNG of 3.6 billion pixels": _claims_to_be_huge(_encoded("PNG")),
    }
    for fault, content in damaged.items():
        root = _damaged_copy(data, folder / fault.replace(" ", "_"), Path("images") / name, content)
        yield Case("picture", fault, _tested("flickr30k", root), Path(name).name)


def _encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(out, kind)
    return out.getvalue()


def _claims_to_be_huge(png: bytes) -> bytes:
    """Width and height in the header of a PNG, with the checksum that belongs to them."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def layouts(folder: Path, mark: Path) -> Iterator[Case]:
    """Damaged annotation files of other datasets than MSR-VTT."""
    damaged: dict[str, list[tuple[str, str, Callable[[bytes], bytes], str]]] = {
        "msvd": [
            ("pickle that runs code", "raw-captions.pkl", lambda _: pickle.dumps(Bomb(mark)), "raw-captions.pkl"),
            ("pickle cut", "raw-captions.pkl", lambda content: content[:-50], "raw-captions.pkl"),
            ("pickle of another shape", "raw-captions.pkl", lambda _: pickle.dumps({"a": [1]}), "raw-captions.pkl"),
            ("pickle that unfolds", "raw-captions.pkl", lambda _: _unfolding(), "raw-captions.pkl"),
            ("video without captions", "test_list.txt", lambda content: content + b"\nnobody_0_1\n", "nobody_0_1"),
        ],
        "lsmdc": [
            ("row with too few columns", _LSMDC, lambda content: content + b"a_b\tc\n", _LSMDC),
            ("row without caption", _LSMDC, lambda content: content.rpartition(b"\t")[0] + b"\t\n", _LSMDC),
        ],
        "didemo": [
            ("JSON cut", "test_data.json", lambda content: content[:-20], "test_data.json"),
            ("record without description", "test_data.json", _without("description"), "description"),
            ("id that leaves the folder", "test_data.json", _with("video", "../../x.mp4"), "x.mp4"),
        ],
        "activitynet": [
            ("record that is a list", "val_1.json", lambda _: b'{"v_a": [1, 2]}', "v_a"),
            ("record without sentences", "val_1.json", _without("sentences"), "sentences"),
            ("JSON of another shape", "val_1.json", lambda _: b"[1, 2]", "val_1.json"),
        ],
        "flickr30k": [
            ("image outside the folder", "flickr30k_test.json", _with("image", "../../../etc/passwd"), "passwd"),
            ("caption that is no text", "flickr30k_test.json", _with("caption", 5), "caption"),
        ],
    }
    for layout, faults in damaged.items():
        data = _generated(layout, folder)
        for number, (fault, file, damage, told) in enumerate(faults):
            root = folder / f"{layout}-{number}"
            content = damage((data / file).read_bytes())
            _damaged_copy(data, root, Path(file), content)
            yield Case("layout", f"{layout}: {fault}", _tested(layout, root), told)


_LSMDC = "LSMDC16_challenge_1000_publictect.csv"


def _with(key: str, value: object) -> Callable[[bytes], bytes]:
    """Changes a field of the first record."""
    return partial(_edited, lambda record: record.update({key: value}))


def _without(key: str) -> Callable[[bytes], bytes]:
    """Takes a field of the first record away."""
    return partial(_edited, lambda record: record.pop(key))


def _edited(edit: Callable[[dict[str, object]], object], content: bytes) -> bytes:
    records = json.loads(content)
    edit(records[0] if isinstance(records, list) else next(iter(records.values())))
    return json.dumps(records).encode()


def _unfolding() -> bytes:
    """A few hundred bytes that are a billion words when they are walked."""
    value: list[object] = ["word"]
    for _ in range(30):
        value = [value, value]
    return pickle.dumps({"video": value})


def _generated(layout: str, folder: Path) -> Path:
    data = folder / layout
    petl_bench(["fixture", str(data), f"--layout={layout}", "--train-videos=8", "--test-videos=8"])
    return data


def _damaged_copy(data: Path, root: Path, file: Path, content: bytes) -> Path:
    shutil.copytree(data, root, copy_function=os.link)
    (root / file).unlink()
    (root / file).write_bytes(content)
    return root


def _tested(dataset: str, root: Path) -> list[str]:
    options = [TINY, "--data.init_args.num_workers=0", "--data.init_args.partial=true", f"--data.init_args.root={root}"]
    return ["test", f"--config={dataset}_zeroshot", *options]


def verdict(case: Case, scratch: Path) -> str:
    """`clear`, or what went wrong."""
    output = scratch / f"{case.kind} {case.name.replace('/', ' ')}"
    child = os.fork()
    if not child:
        end_with(partial(_run, case, scratch, output.with_suffix(".runs")), output)
    signal.alarm(PATIENCE)
    try:
        _, status = os.waitpid(child, 0)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"hangs for {PATIENCE} s"
    finally:
        signal.alarm(0)
    code, text = os.waitstatus_to_exitcode(status), output.read_text(errors="replace")
    errors = [line for line in text.splitlines() if line.startswith("petl-bench: ")]
    if code < 0:
        return f"killed by signal {-code}"
    if code not in REFUSALS[case.kind]:
        return f"exit code {code}: {errors[-1] if errors else 'no message'}"
    if len(errors) != 1 or "Traceback" in text:
        return f"{len(errors)} messages{', and a traceback' * ('Traceback' in text)}"
    return "clear" if case.told in errors[0] else f"does not name {case.told}: {errors[0]}"


def _run(case: Case, scratch: Path, runs: Path) -> int:
    os.chdir(scratch)
    return petl_bench([*case.arguments, f"--runs_dir={runs}"])


def _late(*_: object) -> None:
    raise TimeoutError


def main() -> int:
    """Runs all cases and prints one line for each; returns the number of faults."""
    signal.signal(signal.SIGALRM, _late)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        mark = scratch / "something ran"
        data = scratch / "data"
        size = ["--train-videos=64", "--test-videos=8", "--captions-per-video=1"]
        petl_bench(["fixture", str(data), *size])
        folders = [scratch / kind for kind in REFUSALS]
        for folder in folders:
            folder.mkdir()
        cases = [
            *configurations(folders[0], mark),
            *annotation_files(data, folders[1]),
            *layouts(folders[2], mark),
            *checkpoints(data, folders[3], mark),
            *clips(data, folders[4]),
            *pictures(folders[5]),
        ]
        faults = 0
        for case in cases:
            found = verdict(case, scratch)
            faults += found != "clear"
            print(f"{case.kind:<11} {case.name:<40} {found}", flush=True)
        if mark.exists():
            faults += 1
            print("an input ran code")
    print(f"bad inputs tried {len(cases)}, refused clearly {len(cases) - faults}")
    return faults


if __name__ == "__main__":
    sys.exit(min(main(), 1))
