"""Clips and captions that the checks try classes on, and a few steps of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, Question
from petl_bench.data.datasets import options_of
from petl_bench.inputs import Clips, Words
from petl_bench.method import Method

CAPTIONS = ("a red circle moves left, then up", "a blue square", "first down, then right: a green triangle", "it")

#: what the captions ask, for tasks that answer, for tasks that choose, of three options or of two, and that count
QUESTIONS = tuple(
    Question(
        *(
            clip,
            "what",
            ("red", "blue")[clip % 2 :],
            1.0,
            ("blue", "red", "green")[: 3 - clip % 2],
            1 - clip % 2,
            caption,
        ),
        number=3 * clip,
    )
    for clip, caption in enumerate(CAPTIONS)
)


def make_batch(backbone: Backbone, frames: int = 8, clips: int = 4) -> Batch:
    """Random clips, a second from frame to frame; the last clip is two frames shorter than the rest."""
    generator = torch.Generator().manual_seed(1)
    size = backbone.spec.image_size
    pixels = torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8, generator=generator)
    mask = torch.ones(clips, frames, dtype=torch.bool)
    mask[-1, -2:] = False
    times = torch.arange(frames).expand(clips, frames) * mask.float()
    words = backbone.spec.tokenize(CAPTIONS[:clips], 32).counted()
    index = torch.arange(clips)
    options = options_of(QUESTIONS[:clips], backbone.spec, 32)
    options = None if options is None else options.counted()
    decoded = torch.ones(clips, dtype=torch.bool)
    return Batch(Clips(pixels, mask, times), words, index, index, index, decoded, options=options)


def asked(batch: Batch) -> Batch:
    """The batch with its captions as questions."""
    return batch._replace(questions=QUESTIONS[: len(batch.text_index)])


def with_other_padding(batch: Batch) -> Batch:
    """The batch with other pixels in frames that are padding."""
    frames = batch.clips.frames.clone()
    frames[~batch.clips.mask] = 255 - frames[~batch.clips.mask]
    return batch._replace(clips=batch.clips._replace(frames=frames))


def rows_of(batch: Batch, rows: slice | list[int]) -> Batch:
    """Some samples of a batch with one text for each clip."""
    chosen: Any = torch.arange(len(batch.video_index))[rows]
    questions = tuple(batch.questions[row] for row in chosen.tolist()) if batch.questions else ()
    video, text, owner, decoded = (
        column[chosen] for column in (batch.video_index, batch.text_index, batch.text_video, batch.decoded)
    )
    words, options = batch.words.select(chosen), _options_of(batch, chosen)
    return Batch(batch.clips.select(chosen), words, video, text, owner, decoded, questions, options)


def _options_of(batch: Batch, rows: Tensor) -> Words | None:
    """The options of some of the questions."""
    owner = torch.tensor([row for row, question in enumerate(batch.questions) for _ in question.choices])
    if batch.options is None or not len(owner):
        return None
    return batch.options.select(torch.cat([torch.nonzero(owner == row).flatten() for row in rows]))


def features(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pooled video and text features without gradient, (B, E) and (M, E)."""
    method.eval()
    return features_of(method.backbone, batch)


def features_of(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pooled video and text features of a backbone without gradient, (B, E) and (M, E)."""
    with torch.no_grad():
        return backbone.encode_video(batch.clips).pooled, backbone.encode_text(batch.words).pooled


def train(method: Method, batch: Batch, steps: int, rate: float = 0.1) -> list[set[str]]:
    """Trains with plain gradient descent; returns the names of tensors with a non-zero gradient, by step."""
    return list(trained(method, batch, steps, rate))


def trained(method: Method, batch: Batch, steps: int, rate: float = 0.1) -> Iterator[set[str]]:
    """The same, step by step."""
    method.train()
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(parameters.values(), lr=rate)
    for step in range(steps):
        method.task.before_step(1.0, step)
        optimizer.zero_grad()
        loss, _ = method.task.loss(method.backbone, batch)
        loss.backward()
        moved = {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
        method.task.after_step(method.backbone)
        yield moved
