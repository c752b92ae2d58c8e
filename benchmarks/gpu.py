"""Training on one GPU: what the card can do, and how near ViT-B/16 with 12 frames in bf16 comes to it.

    python -m benchmarks.gpu [--clips 32] [--steps 20] [--only NAME ...] [--ways WAY ...]

First the ceilings, measured in the same call: a large product of bf16 matrices, and a copy within the device's memory.
Then MV-Adapter, UniAdapter, AdaptFormer, LoRA and full fine-tuning take the steps of `petl-bench profile`, which are
those of `fit`, with random weights on synthetic batches: as they are, fed by the loader from a frame cache (whose
batches are not pinned here), with four times the clips in chunks of as many as before (`task.chunk`), with every block
under `torch.compile`, and with CUDA graphs (`reduce-overhead`; shapes are fixed, for all captions are full).
For each: clips per second, the most memory that was allocated, and achieved / limit, which is GFLOP per clip times
clips per second over the product's ceiling.

GFLOP of a step, per clip of 12 frames with a caption of 32 tokens, on ViT-B/16: 842 for adapters (429 forwards, 413
backwards) and 1,285 for full fine-tuning. Those were counted by `FlopCounterMode` on steps of MV-Adapter and of full
fine-tuning, with attention added by hand (4 L^2 D of each layer and frame). UniAdapter's step is another one and has
what the counter finds in its first step here; so has everything on a CPU, where the counter sees no fused attention.

The result goes to `benchmarks/results/gpu/`, anew after each line, so that what was measured is kept. Without a GPU all
of it runs on the CPU with tiny sizes, which shows that it runs, and no more; nothing is kept then unless `--output`
says where.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch._dynamo
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.perf import loading, rounds
from benchmarks.perf.steps import write_vocabulary
from petl_bench.backbones.blip import BLIP
from petl_bench.backbones.clip import CLIP
from petl_bench.data.build_cache import build
from petl_bench.inputs import InputSpec
from petl_bench.main import main as petl_bench
from petl_bench.method import Method

RESULTS = rounds.ROOT / "benchmarks" / "results" / "gpu"
FRAMES, WORDS = 12, 32
#: configuration, and GFLOP per clip; None: as counted
METHODS: dict[str, tuple[str, float | None]] = {
    "MV-Adapter": ("msrvtt_mvadapter_factor", 842),
    "UniAdapter": ("msrvtt_uniadapter", None),
    "AdaptFormer": ("msrvtt_adaptformer", 842),
    "LoRA": ("msrvtt_lora", 842),
    "Full": ("msrvtt_full", 1285),
}


class Way(NamedTuple):
    """How steps are taken.

    Attributes:
        compiled: options of `torch.compile`; None leaves blocks as they are.
        fed: by the loader, not with one synthetic batch again and again.
        chunks: how many of them make a batch, each as large as the batch of other ways.
    """

    compiled: dict[str, Any] | None = None
    fed: bool = False
    chunks: int = 1


WAYS = {
    "eager": Way(),
    "fed by the loader": Way(fed=True),
    "in chunks": Way(chunks=4),
    "compiled": Way(compiled={}),
    "cuda graphs": Way(compiled={"mode": "reduce-overhead"}),
}
_FIT = Trainer.fit


class Place(NamedTuple):
    """Where it runs, and how much.

    Attributes:
        gpu: whether there is one; all else is tiny without it.
        clips: of a step.
        warm: steps before those that are timed.
        steps: that are timed.
        workers: loader processes.
    """

    gpu: bool
    clips: int
    warm: int
    steps: int
    workers: int

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.gpu else "cpu")


# --- ceilings ------------------------------------------------------------------------------------------------------


def ceilings(place: Place) -> dict[str, float]:
    """TFLOP/s of a product of square bf16 matrices, and GB/s, read and written, of a copy within the device."""
    side, size = (8192, 2**31) if place.gpu else (256, 2**20)
    a, b = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    product = _seconds(lambda: a @ b, place)
    return {
        "matmul_tflops": 2 * side**3 / product / 1e12,
        "copy_gb_s": 2 * size / _seconds(lambda: target.copy_(source), place) / 1e9,
    }


def _seconds(work: Callable[[], object], place: Place) -> float:
    """Of one piece of work: the median of ten bundles, so that starting one is not what is measured."""
    bundle = 10 if place.gpu else 1

    def timed() -> float:
        began = _now(place.gpu)
        for _ in range(bundle):
            work()
        return (_now(place.gpu) - began) / bundle

    timed()
    return rounds.summary([timed() for _ in range(10)]).value


def _now(gpu: bool) -> float:
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


# --- training steps ------------------------------------------------------------------------------------------------


class Timed(Callback):
    """Times the steps after those that warm up, and counts the operations of the first one if it may.

    Attributes:
        counting: to be closed where a step fails, or everything after it would be counted, too.
        seconds: of the timed steps together.
        flop: of the first step, forwards and backwards; None where blocks are compiled.
    """

    def __init__(self, place: Place, compiled: dict[str, Any] | None) -> None:
        self._place, self._compiled, self.counting = place, compiled, ExitStack()
        self._graphs = place.gpu and "mode" in (compiled or {})
        self.seconds, self.flop = 0.0, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method), "the command trains methods"
        if self._compiled is not None:
            # Without a GPU, which need not have a compiler of C++ beside it, nothing but dynamo's part is tried.
            options = self._compiled if self._place.gpu else {"backend": "eager"}
            for tower in pl_module.backbone.towers.values():
                for block in tower.blocks:
                    block.compile(**options)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        if batch_idx == 0 and self._compiled is None:
            self._counter = self.counting.enter_context(FlopCounterMode(display=False))
        if batch_idx == self._place.warm:
            self.seconds -= _now(self._place.gpu)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and self._compiled is None:
            self.counting.close()
            self.flop = self._counter.get_total_flops()
        if batch_idx + 1 == self._place.warm + self._place.steps:
            self.seconds += _now(self._place.gpu)


def steps(name: str, way: Way, place: Place, vocabulary: str, batches: DataLoader[Any] | None = None) -> dict[str, Any]:
    """What training steps of a method take.

    Args:
        name: of `METHODS`.
        way: how.
        place: where, and how many.
        vocabulary: of BLIP, where it is not tiny.
        batches: in the place of synthetic ones.
    """
    config, gflop = METHODS[name]
    timed, printed, clips = Timed(place, way.compiled), io.StringIO(), way.chunks * place.clips

    @wraps(_FIT)  # the command's options are read off its arguments
    def fit(trainer: Trainer, model: LightningModule, train_dataloaders: Any) -> None:
        trainer.callbacks.append(timed)  # type: ignore[attr-defined]  # Lightning sets it, and declares it nowhere
        _FIT(trainer, model, train_dataloaders if batches is None else batches)

    asked = {
        "--config": config,
        "--model.init_args.backbone.init_args.architecture": _architecture(name, place.gpu),
        "--data.init_args.frames": FRAMES,
        "--data.init_args.max_words": WORDS,
        "--clips": clips,
        "--steps": place.warm + place.steps - 1,  # it warms up with one of its own
        "--trainer.accelerator": "gpu" if place.gpu else "cpu",
        "--trainer.precision": "bf16-mixed",
    }
    if way.chunks > 1:
        asked["--model.init_args.task.init_args.chunk"] = place.clips
    # All blocks share their code, each compiles it with its own weights, and beyond the limit dynamo compiles nothing.
    limit = torch._dynamo.config.patch(recompile_limit=128) if way.compiled is not None else nullcontext()
    if name == "UniAdapter" and place.gpu:
        asked["--model.init_args.backbone.init_args.vocabulary"] = vocabulary
    with limit, timed.counting, patch.object(Trainer, "fit", fit), redirect_stdout(printed):
        code = petl_bench(["profile", "--json", *(f"{option}={value}" for option, value in asked.items())])
    if code:
        return {"failed": code}  # it said why
    train = json.loads(printed.getvalue())["train"]
    counted = None if timed.flop is None else timed.flop / clips / 1e9
    return {
        "clips_per_s": clips * place.steps / timed.seconds,
        "peak_bytes": train["peak_allocated_bytes"] if place.gpu else train["peak_added_bytes"],
        "gflop_per_clip": gflop if place.gpu and gflop else counted,
        "gflop_per_clip_counted": counted,
    }


def _architecture(name: str, gpu: bool) -> str:
    if not gpu:
        return "tiny"
    return "base" if name == "UniAdapter" else "ViT-B-16-quickgelu"


@contextmanager
def clips_for(way: Way, place: Place) -> Iterator[Path | None]:
    """A dataset with captions that fill all tokens, and enough of them, where the loader feeds; None elsewhere."""
    if not way.fed:
        yield None
        return
    needed = place.clips * (place.warm + place.steps)
    with loading.dataset(not place.gpu, captions=-(-needed // loading.CLIPS), text="a " * WORDS) as (root, _):
        yield root


def fed(root: Path, place: Place, name: str, vocabulary: str) -> DataLoader[Any]:
    """Batches of the training loader from a frame cache."""
    kind = {"frames": FRAMES, "max_words": WORDS, "batch_size": place.clips, "num_workers": place.workers}
    data = loading.module(root, _spec_of(name, place.gpu, vocabulary), cache=root / "cache", **kind)
    cache = data.clip_loader.cache
    assert cache is not None, "its folder was given"
    build(cache, data.clips(), workers=0)
    data.setup("fit")
    return data.train_dataloader()


def _spec_of(name: str, gpu: bool, vocabulary: str) -> InputSpec:
    with torch.device("meta"):
        if name == "UniAdapter":
            return BLIP(_architecture(name, gpu), None, vocabulary=vocabulary if gpu else None).spec
        return CLIP(_architecture(name, gpu), None).spec


def measure(names: Sequence[str], ways: Sequence[str], place: Place, keep: Callable[[dict[str, Any]], None]) -> None:
    """Ceilings, then all methods in each way.

    Args:
        names: of `METHODS`.
        ways: of `WAYS`.
        place: where, and how much.
        keep: is called with all that was found so far.
    """
    top = ceilings(place)
    print(f"ceilings: {top['matmul_tflops']:.4g} TFLOP/s in bf16, copy {top['copy_gb_s']:.4g} GB/s", flush=True)
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for way in ways:
        with clips_for(WAYS[way], place) as clips, tempfile.TemporaryDirectory(prefix="petl_bench_") as folder:
            vocabulary = str(write_vocabulary(Path(folder, "vocab.txt")))
            for name in [name for name in names if _applies(name, way, place)]:
                batches = None if clips is None else fed(clips, place, name, vocabulary)
                one = steps(name, WAYS[way], place, vocabulary, batches)
                found[name][way] = one = completed(one, found[name], top["matmul_tflops"])
                print(_line(name, way, one), flush=True)
                keep({"ceilings": top, "methods": found})


def _applies(name: str, way: str, place: Place) -> bool:
    """Graphs are CUDA's, and the matching task has no chunks."""
    if way == "in chunks":
        return name != "UniAdapter"
    return place.gpu or way != "cuda graphs"


def completed(one: dict[str, Any], of_method: dict[str, dict[str, Any]], tflops: float) -> dict[str, Any]:
    """With achieved / limit, and the speed over that of the first way; operations are those of the first way, too."""
    if "failed" in one:
        return one
    first = of_method.get("eager", one)
    gflop = first.get("gflop_per_clip")
    achieved = None if gflop is None else gflop * one["clips_per_s"] / (1000 * tflops)
    over = one["clips_per_s"] / first["clips_per_s"] if "clips_per_s" in first else None
    return one | {"achieved_over_limit": achieved, "over_eager": over}


def _line(name: str, way: str, one: dict[str, Any]) -> str:
    if "failed" in one:
        return f"{name}, {way}: failed with exit code {one['failed']}"
    share, over = one["achieved_over_limit"], one["over_eager"]
    told = [f"{one['clips_per_s']:.4g} clips/s", f"peak {(one['peak_bytes'] or 0) / 1e9:.3g} GB"]
    told += [f"{share:.1%} of the limit"] * (share is not None) + [f"{over:.3f} of eager"] * (over is not None)
    return f"{name}, {way}: {', '.join(told)}"


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and writes the result; 0 also where a way fails, which the result says."""
    parser = argparse.ArgumentParser(prog="gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=32, help="of a step on a GPU (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="that are timed on a GPU (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=METHODS, default=[*METHODS], metavar="NAME", help=", ".join(METHODS)
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the result (default: results/gpu/ here)")
    options = parser.parse_args(arguments)
    if min(options.clips, options.steps) < 1 or options.workers < 0:
        parser.error("clips and steps are whole numbers from 1 on, workers from 0 on")
    gpu = torch.cuda.is_available()
    place = Place(True, options.clips, 5, options.steps, options.workers) if gpu else Place(False, 2, 1, 1, 0)
    card = torch.cuda.get_device_name() if gpu else "cpu"
    if not gpu:
        print("no GPU: tiny sizes on the CPU, which shows that this runs, and no more")
    found = {"card": card, **rounds.surroundings(), "cuda": torch.version.cuda, **place._asdict()}
    folder, path = options.output or (RESULTS if gpu else None), None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        named = re.sub(r"[^a-z0-9]+", "-", f"{card} {found['date']} {found['commit']}".lower()).strip("-")
        path = folder / f"{named}.json"

    def keep(measured: dict[str, Any]) -> None:
        if path is not None:
            path.write_text(json.dumps(found | measured, indent=1) + "\n", encoding="utf-8")

    measure(options.only, options.ways, place, keep)
    if path is not None:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
