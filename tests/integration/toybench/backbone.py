"""A toy backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from petl_bench.backbones.base import (
    Backbone,
    JointSpace,
    TextFeatures,
    TextTokens,
    VideoFeatures,
    VideoTokens,
    mean_over_frames,
    video_memory,
)
from petl_bench.backbones.weights import parameters_sha256
from petl_bench.inputs import Clips, InputSpec, Words
from petl_bench.nn.transformer import Attention, Context, PreNormBlock, Tower

WIDTH, DEPTH, SIDE, PATCH, WORDS = 32, 3, 32, 8, 32


def block(causal: bool) -> PreNormBlock:
    norms = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
    layers = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
    return PreNormBlock(Attention(WIDTH, 4, causal), *norms, *layers)


class Patches(Tower):
    """Patches of a frame, without a class token."""

    reads = frozenset({"vision"})
    prefix_tokens = 0
    class_token = False

    def __init__(self) -> None:
        side = SIDE // PATCH
        super().__init__([block(causal=False) for _ in range(DEPTH)], WIDTH, (side, side))
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.positions_embedding = nn.Parameter(torch.randn(side * side, WIDTH))


class Letters(Tower):
    """Letters, of which the last one has read all."""

    reads = frozenset({"text"})
    prefix_tokens = 0
    class_token = False

    def __init__(self) -> None:
        super().__init__([block(causal=True) for _ in range(DEPTH)], WIDTH)
        self.token_embedding = nn.Embedding(64, WIDTH)
        self.positions_embedding = nn.Parameter(torch.randn(WORDS, WIDTH))


class Bag(JointSpace, Backbone):
    """Means of patches and last letters.

    Args:
        init_seed: of the weights.
    """

    def __init__(self, init_seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            self.video, self.text = Patches(), Letters()
        self.name, self.embed_dim = "bag", WIDTH
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.weights = {"source": f"random, seed {init_seed}", "sha256": parameters_sha256(self)}
        self.spec = InputSpec(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash", WORDS, letters)

    @classmethod
    def tiny(cls, init_seed: int = 0) -> Bag:
        return cls(init_seed)

    @property
    def towers(self) -> dict[str, Tower]:
        return {"video": self.video, "text": self.text}

    def encode_video(self, clips: Clips) -> VideoFeatures:
        return self.encode_video_tokens(clips).features

    def encode_video_tokens(self, clips: Clips) -> VideoTokens:
        batch, frames = clips.mask.shape
        pixels = self.normalise(rearrange(clips.frames, "b t c h w -> (b t) c h w"))
        x = rearrange(self.video.patches(pixels), "r d h w -> r (h w) d") + self.video.positions_embedding
        x = self.video.run(x, Context(frames, clips.mask))
        by_frame = rearrange(x.mean(1), "(b t) d -> b t d", b=batch)
        return VideoTokens(VideoFeatures(by_frame, mean_over_frames(by_frame, clips.mask)), video_memory(x, clips.mask))

    def encode_text(self, words: Words) -> TextFeatures:
        return self.encode_text_tokens(words).features

    def encode_text_tokens(self, words: Words) -> TextTokens:
        x = self.text.token_embedding(words.ids) + self.text.positions_embedding[: words.ids.shape[1]]
        x = self.text.run(x, Context())
        last = repeat(words.mask.sum(1) - 1, "m -> m 1 d", d=WIDTH)
        projected = x.gather(1, last)[:, 0]
        return TextTokens(TextFeatures(nn.functional.normalize(projected, dim=-1), projected), x)


def letters(captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
    """A token for each letter."""
    ids = [[ord(letter) % 64 for letter in caption[:max_words].ljust(max_words)] for caption in captions]
    lengths = torch.tensor([min(len(caption), max_words) for caption in captions])
    return torch.tensor(ids), torch.arange(max_words) < lengths[:, None]
