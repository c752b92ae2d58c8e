"""A small backbone of another make than those in the package, as vision-language models are built today.

No class token, two frames in one row, grouped-query attention, rotary positions, RMS norms, gated feed-forward layers,
towers of unequal width, and no biases in the text tower.
"""

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
    mean_of_real,
)
from petl_bench.backbones.weights import parameters_sha256
from petl_bench.inputs import Clips, InputSpec, Words
from petl_bench.nn.transformer import Attention, Block, Context, Memory, Place, Role, Tower, select_row

PATCH, SIDE, WORDS, HEAD = 8, 32, 32, 8


class GatedBlock(Block):
    """y = x + Attention(RMS1 x); z = y + W_down(SiLU(W_gate u) * W_up u) with u = RMS2 y."""

    token_wise = True

    def __init__(self, width: int, causal: bool, bias: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(width), nn.RMSNorm(width)
        heads = width // HEAD
        self.self_attention = Attention(width, heads, causal, key_value_heads=heads // 2, bias=bias)
        self.gate, self.up = nn.Linear(width, 2 * width, bias), nn.Linear(width, 2 * width, bias)
        self.down = nn.Linear(2 * width, width, bias)

    @property
    def attention(self) -> Attention:
        return self.self_attention

    @property
    def linears(self) -> dict[Role, Place]:
        own: dict[Role, Place] = {"gate": Place(self, "gate"), "up": Place(self, "up"), "down": Place(self, "down")}
        return self.self_attention.linears | own

    @property
    def norms(self) -> list[nn.Module]:
        return [self.norm_1, self.norm_2]

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.norm_1(x)

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return self.norm_2(x)

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.self_attention(self.norm_1(x), context.attention_mask, row, context.positions)

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        u = self.norm_2(x)
        return self.down(nn.functional.silu(self.gate(u)) * self.up(u))

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + branch


class PairTower(Tower):
    """Patches of two frames at a time; pairs do not interact."""

    reads = frozenset({"vision"})
    frames_per_row = 2
    prefix_tokens = 0
    class_token = False
    positions = "rotary"

    def __init__(self, width: int, depth: int, embed_dim: int) -> None:
        side = SIDE // PATCH
        super().__init__([GatedBlock(width, causal=False, bias=True) for _ in range(depth)], width, (side, side))
        self.patches = nn.Conv3d(3, width, (2, PATCH, PATCH), stride=(2, PATCH, PATCH))
        self.norm = nn.RMSNorm(width)
        self.proj = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)

    def outer_norms(self) -> list[nn.Module]:
        return [self.norm]

    def angles(self) -> Tensor:
        """Half of them for rows, half for columns: (1, H * W, d / 2)."""
        rows, columns = torch.arange(SIDE // PATCH), torch.arange(SIDE // PATCH)
        row, column = torch.cartesian_prod(rows, columns).unbind(1)
        return torch.cat([turned(row, HEAD // 4), turned(column, HEAD // 4)], dim=1)[None]


class CausalTower(Tower):
    """Words, read at the last one."""

    reads = frozenset({"text"})
    prefix_tokens = 0
    class_token = False
    positions = "rotary"

    def __init__(self, width: int, depth: int, embed_dim: int) -> None:
        super().__init__([GatedBlock(width, causal=True, bias=False) for _ in range(depth)], width)
        self.token_embedding = nn.Embedding(64, width)
        self.norm = nn.RMSNorm(width)
        self.proj = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)

    def outer_norms(self) -> list[nn.Module]:
        return [self.norm]


def turned(places: Tensor, channels: int) -> Tensor:
    """Angles of places (n,): (n, channels)."""
    return places[:, None] / 10.0 ** torch.arange(channels)


class Gated(JointSpace, Backbone):
    """See the module."""

    has_frames = False

    def __init__(self, init_seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            self.video, self.language = PairTower(32, 3, 24), CausalTower(48, 2, 24)
        self.name, self.embed_dim = "gated-tiny", 24
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.weights = {"source": f"random, seed {init_seed}", "sha256": parameters_sha256(self)}
        self.spec = InputSpec(SIDE, (0.5,) * 3, (0.5,) * 3, "squash", WORDS, letters)  # type: ignore[arg-type]  # three

    @classmethod
    def tiny(cls, init_seed: int = 0) -> Gated:
        return cls(init_seed)

    @property
    def towers(self) -> dict[str, Tower]:
        return {"video": self.video, "language": self.language}

    def projections(self) -> list[nn.Parameter]:
        return [self.video.proj, self.language.proj]

    def embeddings(self) -> list[nn.Parameter]:
        return [*self.video.patches.parameters(), *self.language.token_embedding.parameters()]

    def encode_video(self, clips: Clips) -> VideoFeatures:
        return self.encode_video_tokens(clips).features

    def encode_video_tokens(self, clips: Clips) -> VideoTokens:
        frames, mask = self.normalise(clips.frames), clips.mask
        if frames.shape[1] % 2:  # the last frame stands for its partner
            frames, mask = torch.cat([frames, frames[:, -1:]], 1), torch.cat([mask, mask[:, -1:]], 1)
        pairs, real = rearrange(frames, "b (s two) c h w -> b s two c h w", two=2), mask.unflatten(1, (-1, 2))
        pairs = torch.where(real[..., None, None, None], pairs, pairs.flip(2))  # a padded frame is its partner
        steps = real.any(2)  # (B, S)
        x = self.video.patches(rearrange(pairs, "b s two c h w -> (b s) c two h w"))
        context = Context(steps.shape[1], steps, positions=self.video.angles().to(x))
        x = self.video.norm(self.video.run(rearrange(x, "r d 1 h w -> r (h w) d"), context))
        pooled = mean_of_real(x.mean(1).unflatten(0, steps.shape), steps) @ self.video.proj
        memory = Memory(rearrange(x, "(b s) l d -> b (s l) d", s=steps.shape[1]), repeat(steps, "b s -> b (s l)", l=16))
        return VideoTokens(VideoFeatures(None, nn.functional.normalize(pooled, dim=-1)), memory)

    def encode_text(self, words: Words) -> TextFeatures:
        return self._text_features(self.language.run(*self._embed(words), words.mask.sum(1) - 1))

    def encode_text_tokens(self, words: Words) -> TextTokens:
        x = self.language.run(*self._embed(words))
        return TextTokens(self._text_features(select_row(x, words.mask.sum(1) - 1)), x)

    def _embed(self, words: Words) -> tuple[Tensor, Context]:
        x = self.language.token_embedding(words.ids)
        return x, Context(positions=turned(torch.arange(x.shape[1]), HEAD // 2)[None].to(x))

    def _text_features(self, last: Tensor) -> TextFeatures:
        projected = self.language.norm(last)[:, 0] @ self.language.proj
        return TextFeatures(nn.functional.normalize(projected, dim=-1), projected)


def letters(captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
    """A token for each letter."""
    lengths = torch.tensor([min(len(caption), max_words) for caption in captions])
    ids = [[ord(letter) % 64 for letter in caption[:max_words].ljust(max_words)] for caption in captions]
    return torch.tensor(ids), torch.arange(max_words) < lengths[:, None]
