"""Features of a large batch whose activations would not fit: embedded in chunks, replayed in the backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch

from petl_bench.backbones.base import Backbone, TextFeatures, VideoFeatures
from petl_bench.inputs import Clips, Words
from petl_bench.nn.recomputation import recomputed


class Features(NamedTuple):
    """Features of B pairs of a clip and a caption."""

    video: VideoFeatures
    text: TextFeatures


def features_of(backbone: Backbone, clips: Clips, words: Words) -> Features:
    """Features of B clips and B captions."""
    return Features(backbone.encode_video(clips), backbone.encode_text(words))


def features_in_chunks(backbone: Backbone, clips: Clips, words: Words, size: int) -> Features:
    """`features_of`, for whose backward pass the activations of `size` pairs at most are there at once.

    The backward pass goes through the chunks from the last one to the first, and embeds each anew, with the same random
    state, when it comes to it. The last one is there still, and is kept. What follows sees the features of all pairs:
    a loss over them, and over those of other processes, has its exact gradient, which every parameter gets once.

    Source: GradCache (Gao et al., arXiv 2101.06983), whose two passes are torch's recomputation here.
    """
    ends = range(len(clips.mask), 0, -size)
    *first, last = [slice(max(0, end - size), end) for end in ends][::-1]
    if not first:
        return features_of(backbone, clips, words)
    parts = [recomputed(features_of, backbone, clips.select(rows), words.select(rows)) for rows in first]
    return _joined([*parts, features_of(backbone, clips.select(last), words.select(last))])


def _joined(parts: list[Features]) -> Features:
    videos, texts = [part.video for part in parts], [part.text for part in parts]
    frames = [video.frames for video in videos if video.frames is not None]
    return Features(
        VideoFeatures(torch.cat(frames) if frames else None, torch.cat([video.pooled for video in videos])),
        TextFeatures(*(torch.cat(column) for column in zip(*texts, strict=True))),
    )
