"""Gives every option of every command values of the wrong type, sign, size and encoding.

    python -m benchmarks.faults.options [--share 0.1] [--seed 0] [PART OF AN OPTION'S NAME ...]

A case passes if the command ends by itself with an exit code that README names, and, where it refuses the value, in
one line that names the option. Exit code 1, a traceback, dying and hanging are faults. Each case runs in a child of
this process, which has imported everything; training is on a handful of tiny clips, so that legal values end soon, too.
"""

import argparse
import inspect
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer

from benchmarks.children import end_with
from methods.mv_adapter import OfficialMVAdapter
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import find_config
from petl_bench.data.base import VideoTextDataModule
from petl_bench.main import main as petl_bench
from petl_bench.method import Method
from petl_bench.optimizers import AdamWCosine
from petl_bench.registry import list_entries
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.qa_classifier import AnswerClassifier
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval

#: of the cases that `make faults` tries
SHARE = 0.1
#: seconds after which a case counts as hanging
PATIENCE = 60
#: of the address space that a case may take more than this process has
MEMORY = 6 * 1024**3
#: done, configuration, non-finite, data, checkpoint or storage
FINE = (0, 2, 3, 4, 5)
_LONG = "x" * 100_000
_TINY = (
    "--trainer=trainer/fixture.yaml",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.batch_size=4",
    "--data.init_args.eval_batch_size=4",
    "--data.init_args.frames=2",
    "--data.init_args.max_words=8",
    "--data.init_args.num_workers=0",
    "--data.init_args.partial=true",
)
_CLIP, _BLIP, _BLIP_QA = (f"backbone/{name}.yaml" for name in ("clip_tiny", "blip_tiny", "blip_tiny_qa"))


@dataclass(frozen=True)
class Case:
    """A value for an option.

    Attributes:
        option: its full name.
        value: as it is shown.
        arguments: of petl-bench.
    """

    option: str
    value: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """A generated dataset of each layout, and files that are none."""

    folder: Path

    @cache  # noqa: B019  # it lives as long as the process
    def data(self, layout: str) -> Path:
        """A dataset of a layout, written when it is first asked for."""
        folder = self.folder / layout
        size = ["--train-videos=8", "--test-videos=4"]
        if petl_bench(["fixture", str(folder), f"--layout={layout}", *size]):
            raise RuntimeError(f"no dataset of layout {layout}")
        return folder

    def values(self) -> dict[str, Any]:
        """What each option is given, by what is shown; a configuration file can hold all of them."""
        fifo, folder = self.folder / "fifo", self.folder / "folder"
        if not fifo.exists():
            os.mkfifo(fifo)
            folder.mkdir()
        return {
            "null": None,
            "empty": "",
            "-1": -1,
            "0": 0,
            "1": 1,
            "0.5": 0.5,
            "2": 2,
            "1e999": float("inf"),
            "nan": float("nan"),
            "1e30": 10**30,
            "a": "a",
            "list": [1],
            "mapping": {"a": 1},
            "true": True,
            "100,000 letters": _LONG,
            "lone surrogate": "a\udcffb",
            "NUL": "a\0b",
            "no file": "nothing/here.json",
            "folder": str(folder),
            "FIFO": str(fifo),
        }


def cases(bench: Bench) -> Iterator[Case]:
    """All of them, most of `fit`."""
    for option, arguments in _options_of_fit(bench):
        for name, value in _tried_values(bench, option):
            yield Case(option, name, (*arguments, *_given(bench, option, value)))
    for option, arguments in _options_of_others(bench):
        for name, value in _tried_values(bench, option):
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield Case(option, name, (*arguments, f"{option}={text}"))


def _tried_values(bench: Bench, option: str) -> Iterator[tuple[str, Any]]:
    for name, value in bench.values().items():
        if option.endswith("trainer.devices") and value == 2:
            continue  # Lightning starts the second process with the command line of this one
        if option == "--timeout" and value == 0.5:
            continue  # half a second is enough for a clip, or not
        yield name, value


def _given(bench: Bench, option: str, value: Any) -> tuple[str, ...]:
    """An option on the command line, or where that cannot hold the value in a configuration file."""
    if isinstance(value, (str, int)) and not isinstance(value, bool) and "\0" not in str(value):
        return (f"--{option}={value}",)
    for key in reversed(option.split(".")):
        value = {key: value}
    path = bench.folder / "value.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return (f"--config={path}",)


def _options_of_fit(bench: Bench) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of options, and the arguments that make a small run that has them."""
    plain = _fit(bench, "fixture_linear", "msrvtt", _CLIP)
    for name in inspect.signature(Trainer.__init__).parameters:
        if name != "self":
            yield f"trainer.{name}", plain
    for name in (
        *("seed_everything", "runs_dir", "overwrite", "allow_change", "save_every_n_steps", "collective_timeout"),
        *("zero_shot", "best_on_val", "record_words", "ckpt_path", "weights_only", "config", "model", "data"),
        "trainer",
    ):
        yield name, plain
    for name in ("backbone", "task", "optimizer"):
        yield f"model.init_args.{name}", plain
    for config, layout, backbone in _METHODS:
        for name in _own_arguments(_class_of(config, "model"), Method):
            yield f"model.init_args.{name}", _fit(bench, config, layout, backbone)
    for name in _own_arguments(VideoTextDataModule, object):
        yield f"data.init_args.{name}", plain
    for config, layout in _DATA.items():
        fit = _fit(bench, config, layout, _CLIP)
        if layout.endswith("qa") or layout == "vqav2":
            fit += (_answers(bench.data(layout)),)
        for name in _own_arguments(_class_of(config, "data"), VideoTextDataModule):
            yield f"data.init_args.{name}", fit
    for part, kind, config, layout, backbone in _PARTS:
        fit = _fit(bench, config, layout, backbone)
        for name in _own_arguments(kind, object):
            yield f"model.init_args.{part}.init_args.{name}", fit


#: configurations whose methods have options of their own
_METHODS = (
    *((f"fixture_{name}", "msrvtt", _CLIP) for name in ("adaptformer", "convpass", "cross_modal_adapter", "lora")),
    *((f"fixture_{name}", "msrvtt", _CLIP) for name in ("mvadapter", "partial1", "st_adapter", "tempme", "vop", "vpt")),
    ("fixture_blip_uniadapter", "msrvtt", _BLIP),
)
_DATA = {
    "msvd_linear": "msvd",
    "lsmdc_linear": "lsmdc",
    "didemo_linear": "didemo",
    "activitynet_linear": "activitynet",
    "coco_linear": "coco",
    "flickr30k_linear": "flickr30k",
    "fixtureqa_full": "msrvtt_qa",
    "msvdqa_full": "msvd_qa",
    "vqav2_full": "vqav2",
    "fixture_linear": "msrvtt",
}
_PARTS: tuple[tuple[str, type, str, str, str], ...] = (
    ("task", Retrieval, "fixture_linear", "msrvtt", _CLIP),
    ("task", MatchingRetrieval, "fixture_blip_uniadapter", "msrvtt", _BLIP),
    ("task", AnswerClassifier, "fixtureqa_full", "msrvtt_qa", _CLIP),
    ("task", AnswerGeneration, "fixtureqa_blip_adaptformer", "msrvtt_qa", _BLIP_QA),
    ("backbone", CLIP, "fixture_linear", "msrvtt", _CLIP),
    ("backbone", BLIP, "fixture_blip_uniadapter", "msrvtt", _BLIP),
    ("backbone", WholeCLIP, "fixture_full", "msrvtt", "WholeCLIP"),
    ("optimizer", AdamWCosine, "fixture_linear", "msrvtt", _CLIP),
    ("optimizer", OfficialMVAdapter, "fixture_mvadapter_official", "msrvtt", _CLIP),
)


def _fit(bench: Bench, config: str, layout: str, backbone: str) -> tuple[str, ...]:
    more: tuple[str, ...] = (f"--model.init_args.backbone={backbone}",)
    if backbone == "WholeCLIP":
        more = (
            "--model.init_args.backbone=petl_bench.backbones.clip.WholeCLIP",
            "--model.init_args.backbone.init_args.architecture=tiny",
            "--model.init_args.backbone.init_args.pretrained=null",
        )
    if config.startswith("fixtureqa_full"):
        more += (_answers(bench.data(layout)),)
    if config == "fixture_blip_uniadapter":
        more += ("--model.init_args.task.init_args.queue_size=8", "--model.init_args.task.init_args.reranking.k=2")
    if config == "fixture_tempme":
        more += ("--data.init_args.frames=8",)
    return ("fit", f"--config={config}", *_TINY, *more, f"--data.init_args.root={bench.data(layout)}")


def _answers(root: Path) -> str:
    path = next(path for name in ("train_qa.json", "answer_list.json") if (path := root / name).is_file())
    return f"--model.init_args.task.init_args.answer_list={path}"


def _class_of(config: str, section: str) -> type:
    """The class that a packaged configuration names."""
    module, _, name = composed(find_config(config))[section]["class_path"].rpartition(".")
    return getattr(import_module(module), name)


def _own_arguments(kind: type, base: type) -> list[str]:
    """Arguments of the constructors of a class and its bases below `base`."""
    kinds = kind.__mro__[: kind.__mro__.index(base)]
    found = [p for one in kinds if "__init__" in vars(one) for p in inspect.signature(one.__init__).parameters.values()]
    named = [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("self", "spec", "seed")]
    return list(dict.fromkeys(named))


def _options_of_others(bench: Bench) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Options of the commands that train nothing."""
    around = (f"--model.init_args.backbone={_CLIP}", *_TINY, f"--data.init_args.root={bench.data('msrvtt')}")
    for command in ("params", "profile", "plan"):
        options = ("--clips", "--steps", *(("--rows",) if command == "plan" else ())) if command != "params" else ()
        for option in (*options, "--json"):
            yield option, (command, "--config=fixture_linear", *around, *(("--steps=1",) if options else ()))
    data = ("--config=data/fixture.yaml", *around)
    for option in ("--backbone", "--config"):
        yield option, ("data", "describe", *data)
    for option in ("--manifest", "--workers", "--timeout", "--memory", "--recheck"):
        yield option, ("data", "verify", *data, "--manifest=manifest.jsonl")
    for option in ("--cache", "--workers", "--recheck"):
        yield option, ("data", "cache", *data, "--cache=cache", "--workers=0")
    for option in ("--output", "--strict"):
        yield option, ("report", str(bench.folder / "runs"))
    for option in ("--train-videos", "--test-videos", "--captions-per-video", "--size", "--seconds", "--fps", "--seed"):
        small = ("--train-videos=4", "--test-videos=2", "--captions-per-video=1")
        yield option, ("fixture", "written", *small)
    yield "--layout", ("fixture", "written")
    yield "--plugins", ("list", "methods")
    yield "--plugins", _fit(bench, "fixture_linear", "msrvtt", _CLIP)
    for command in ("test", "validate", "predict"):
        fit = _fit(bench, "fixture_zeroshot", "msrvtt", _CLIP)
        for option in ("--ckpt_path", "--trainer.devices", "--data.init_args.root", "--runs_dir", "--verbose"):
            yield option, (command, *fit[1:], "--data.init_args.val_videos=2")


def verdict(case: Case, scratch: Path) -> str:
    """`clear`, or what went wrong."""
    output = scratch / "output.txt"
    child = os.fork()
    if not child:
        end_with(partial(_run, case, scratch), output)
    signal.alarm(PATIENCE)
    try:
        _, status = os.waitpid(child, 0)
    except TimeoutError:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"hangs for {PATIENCE} s"
    finally:
        signal.alarm(0)
    code, text = os.waitstatus_to_exitcode(status), output.read_text(errors="replace")
    told = [line for line in text.splitlines() if line.startswith("petl-bench")]
    if code not in FINE or "Traceback" in text:
        return f"exit code {code}: {told[-1][:300] if told else text[-300:]}"
    if code == 0 or code == 3:
        return "clear"
    errors = [line for line in text.splitlines() if "error: " in line]
    if len(errors) != 1 or len(errors[0]) > 1000:
        return f"{len(errors)} lines, the first of {len(errors[0]) if errors else 0} letters"
    name = case.option.rsplit(".", 1)[-1].removeprefix("--")
    return "clear" if name in errors[0] else f"does not name {name}: {errors[0][:300]}"


def _run(case: Case, scratch: Path) -> int:
    """The command, in a process group of its own."""
    os.setsid()
    # Whoever runs this may have put others in their places.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, errors="backslashreplace") for stream in (1, 2))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    os.chdir(tempfile.mkdtemp(dir=scratch))
    try:
        return petl_bench(list(case.arguments))
    except SystemExit as stop:  # argparse ends this way
        return int(stop.code or 0)


def _late(*_: object) -> None:
    raise TimeoutError


def tried(share: float, seed: int, wanted: Callable[[Case], bool] = lambda case: True) -> tuple[int, list[str]]:
    """How many cases were tried, and those that failed, with what went wrong."""
    signal.signal(signal.SIGALRM, _late)
    chosen, failed = random.Random(seed), []
    count = 0
    with tempfile.TemporaryDirectory(prefix="petl_bench_options_") as name:
        bench = Bench(Path(name))
        for layout in {*_DATA.values(), "msrvtt"}:
            bench.data(layout)
        for kind in ("methods", "datamodules"):
            for entry in list_entries(kind):
                import_module(entry.module)
        petl_bench([*_fit(bench, "fixture_linear", "msrvtt", _CLIP), f"--runs_dir={bench.folder / 'runs'}"])
        for case in cases(bench):
            if chosen.random() >= share or not wanted(case):
                continue
            count += 1
            if (found := verdict(case, Path(name))) != "clear":
                failed.append(f"{case.option} = {case.value}: {found}")
                print(failed[-1], flush=True)
    return count, failed


def main() -> int:
    """Tries a share of the cases and prints those that fail; returns how many did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    count, failed = tried(
        options.share,
        options.seed,
        lambda case: not options.names or any(name in case.option for name in options.names),
    )
    print(f"values of options tried {count}, held {count - len(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
