"""What autograd keeps for the backward pass of a contrastive training step, with each of the settings that save memory.

    python -m benchmarks.saved_bytes
    python -m benchmarks.saved_bytes --architecture ViT-B-16-quickgelu --clips 2 --frames 12 --methods AdaptFormer

Weights are random, options of the methods are their defaults, captions have 32 tokens. A forward pass is enough: the
bytes do not depend on the machine (`petl_bench.runs.cost.SavedActivations`). They grow with the number of clips, but
for copies of trained weights in bf16, so two columns of one table tell those of any batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    """CUDA's autocast computes norms in fp32, and what is added to them is fp32, too; that of CPUs does not."""
    original = nn.functional.layer_norm

    def layer_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return original(x.float(), *args, **kwargs)

    with patch("torch.nn.functional.layer_norm", layer_norm):
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


def rows(kind: type[Method], architecture: str, clips: int, frames: int) -> Iterator[list[str]]:
    """A row for each precision, in MB."""
    task = Retrieval()
    method = kind(backbone=CLIP(architecture, None), task=task).adapt().train()
    for name, low, fp32_norms, held in PRECISIONS:
        weights = HeldWeights(method, torch.bfloat16) if held else None
        found = []
        for what, chunked in SETTINGS.values():
            method.backbone.set_gradient_checkpointing(what)
            task.chunk = max(1, clips // 2) if chunked else None
            found.append(f"{saved_bytes(method, clips, frames, low, fp32_norms) / 1e6:.1f}")
        if weights is not None:
            weights.put_back()
        yield [kind.__name__, name, *found]


def main() -> None:
    parser = argparse.ArgumentParser(prog="saved_bytes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32-quickgelu", help="of open_clip (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="of a clip (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="(default: all)")
    options = parser.parse_args()
    if min(options.clips, options.frames) < 1:
        parser.error("clips and frames are whole numbers from 1 on")
    print(f"MB saved, {options.architecture}, {options.clips} clips of {options.frames} frames; recomputed:")
    print("| method | precision |", " | ".join(SETTINGS), "|")
    print("|---|---|" + "---|" * len(SETTINGS))
    for name in options.methods:
        for row in rows(METHODS[name], options.architecture, options.clips, options.frames):
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
