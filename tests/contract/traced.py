"""Traces towers with `torch.export`, as `petl-bench export` does.

`python -m tests.contract.traced` tries every method on each backbone of retrieval; the tests try a few.
"""

from __future__ import annotations

import torch

from petl_bench.data.datasets import ClipLoader
from petl_bench.export import model as export
from petl_bench.inputs import Clips, FrameRule, Words
from petl_bench.video_text_model import VideoTextModel
from tests.contract import battery


def model_of(config: battery.Case | str, backbone: str = "clip", task: str = "retrieval") -> VideoTextModel:
    """A tiny model whose trained tensors are no longer those of the start."""
    method = battery.builder(config, backbone, task)().adapt()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in method.trainable_parameters():
            parameter.parameter.add_(torch.randn_like(parameter.parameter), alpha=0.02)
    spec = method.backbone.spec
    loader = ClipLoader(FrameRule(4, "uniform", None), image_size=spec.image_size, resize=spec.resize, reader="pyav")
    return VideoTextModel(method, loader, 12, torch.device("cpu"))


def inputs_of(model: VideoTextModel, count: int) -> tuple[Words, Clips]:
    """Texts and clips of other numbers than a graph was traced with, some frames of them padding."""
    words = model.spec.tokenize([f"{number} men walk" * (number + 1) for number in range(count)], model.max_words)
    mask = torch.arange(4).expand(count, 4) <= torch.arange(count)[:, None]
    side = model.spec.image_size
    frames = torch.randint(256, (count, 4, 3, side, side), dtype=torch.uint8) * mask[..., None, None, None]
    return words, Clips(frames, mask, torch.arange(4.0).expand(count, 4) * mask)


def tried(case: battery.Case, backbone: str) -> float:
    """The greatest difference of features of clips between a video tower and its graph."""
    model = model_of(case, backbone)
    program = export._traced(export._video(model))
    _, clips = inputs_of(model, 3)
    return float((program.module()(*clips)[0] - model.encode_clips(clips).pooled).abs().max())


if __name__ == "__main__":
    for case in battery.CASES:
        for backbone in ("clip", "blip"):
            if (case.name, backbone, "retrieval") not in battery.HOLES:
                print(f"{case.name:<24}{backbone:<6}{tried(case, backbone):.1e}", flush=True)
