"""What autograd keeps for the backward pass of a contrastive training step, with each of the settings that save memory.

    python -m benchmarks.saved_bytes
    python -m benchmarks.saved_bytes --architecture ViT-B-16-quickgelu --clips 2 --frames 12 --methods AdaptFormer

Weights are random, options of the methods are their defaults, captions have 32 tokens. A forward pass is enough: the
bytes do not depend on the machine (`petl_bench.runs.cost.SavedActivations`). They grow with the number of clips, but
for copies of trained weights in bf16, so two columns of one table tell those of any batch.

With `--rounds` a last row of each method tells what the settings cost: the process's CPU time of forward and backward
pass in fp32, with one thread, over that of the first setting; settings take turns, the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from methods.adaptformer import AdaptFormer
from methods.full import Full
from methods.lora import LoRA
from methods.mv_adapter import MVAdapter
from petl_bench.backbones.clip.model import CLIP
from petl_bench.method import Method
from petl_bench.nn.recomputation import Recomputation
from petl_bench.runs.cost import SavedActivations, synthetic_batch
from petl_bench.runs.frozen import HeldWeights
from petl_bench.tasks.retrieval import Retrieval

METHODS: dict[str, type[Method]] = {kind.__name__: kind for kind in (Full, AdaptFormer, LoRA, MVAdapter)}
WORDS = 32
#: what is recomputed, and whether half of the batch is a chunk
SETTINGS: dict[str, tuple[Recomputation, bool]] = {
    "nothing": (False, False),
    "activations": ("activations", False),
    "blocks": (True, False),
    "chunk of half": (False, True),
}
#: name, whether it is bf16, whether norms give fp32 as under CUDA's autocast, whether frozen weights are held in bf16
PRECISIONS = (
    ("32-true", False, False, False),
    ("bf16-mixed, frozen weights in fp32", True, False, False),
    ("bf16-mixed", True, False, True),
    ("bf16-mixed, norms in fp32 as on CUDA", True, True, True),
)


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """CUDA's autocast computes norms in fp32; that of CPUs takes what they are given as it comes."""
    original = nn.functional.layer_norm

    def layer_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return original(x.float(), *args, **kwargs)

    def in_fp32(x: Tensor) -> bool:
        return x.dtype == torch.bfloat16

    module = "petl_bench.nn.mixed_precision.normalised_in_fp32"
    with patch("torch.nn.functional.layer_norm", layer_norm), patch(module, in_fp32):
        yield


def saved_bytes(method: Method, clips: int, frames: int, low: bool, fp32_norms: bool) -> int:
    """What one step keeps."""
    batch = synthetic_batch(method.backbone.spec, clips, frames, WORDS)
    saved = SavedActivations(method)
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=low, cache_enabled=False))
        if fp32_norms:
            stack.enter_context(norms_in_fp32())
        stack.enter_context(saved)
        method.task.loss(method.backbone, batch)
    return saved.bytes


def choose(method: Method, setting: str, clips: int) -> None:
    """Sets what is recomputed."""
    what, chunked = SETTINGS[setting]
    method.backbone.set_gradient_checkpointing(what)
    method.task.chunk = max(1, clips // 2) if chunked else None


def time_ratios(method: Method, clips: int, frames: int, rounds: int) -> list[float]:
    """CPU time of a step with each setting over that with the first one."""
    batch = synthetic_batch(method.backbone.spec, clips, frames, WORDS)
    seconds: list[list[float]] = []
    for _ in range(1 + rounds):
        seconds.append([])
        for setting in SETTINGS:
            choose(method, setting, clips)
            method.zero_grad()
            started = time.process_time()
            method.task.loss(method.backbone, batch)[0].backward()
            seconds[-1].append(time.process_time() - started)
    ratios = [[taken / turn[0] for taken in turn] for turn in seconds[1:]]  # the first round warms up
    return [median(column) for column in zip(*ratios, strict=True)]


def rows(kind: type[Method], architecture: str, clips: int, frames: int, rounds: int) -> Iterator[list[str]]:
    """A row for each precision, in MB, and one of times."""
    method = kind(backbone=CLIP(architecture, None), task=Retrieval()).adapt().train()
    for name, low, fp32_norms, held in PRECISIONS:
        weights = HeldWeights(method, torch.bfloat16) if held else None
        found = []
        for setting in SETTINGS:
            choose(method, setting, clips)
            found.append(f"{saved_bytes(method, clips, frames, low, fp32_norms) / 1e6:.1f}")
        if weights is not None:
            weights.put_back()
        yield [kind.__name__, name, *found]
    if rounds:
        yield [kind.__name__, "time", *(f"{ratio:.2f}" for ratio in time_ratios(method, clips, frames, rounds))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="saved_bytes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32-quickgelu", help="of open_clip (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="of a clip (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="(default: all)")
    parser.add_argument("--rounds", type=int, default=0, help="that are timed (default: none)")
    options = parser.parse_args()
    if min(options.clips, options.frames, options.rounds + 1) < 1:
        parser.error("clips and frames are whole numbers from 1 on, rounds from 0 on")
    torch.set_num_threads(1)
    print(f"MB saved, {options.architecture}, {options.clips} clips of {options.frames} frames; recomputed:")
    print("| method | precision |", " | ".join(SETTINGS), "|")
    print("|---|---|" + "---|" * len(SETTINGS))
    for name in options.methods:
        for row in rows(METHODS[name], options.architecture, options.clips, options.frames, options.rounds):
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
