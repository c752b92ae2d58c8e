"""What every backbone offers: an input specification, towers of replaceable blocks, features.

A method changes a backbone by replacing blocks (`Tower.replace`) or layers inside them; a task reads features
(`encode_video`, `encode_text`). Neither needs to know whether CLIP or BLIP stands behind.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from petl_bench.configurable import Configurable, given_arguments
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips, InputSpec, Words
from petl_bench.nn.transformer import Memory, Tower
from petl_bench.storage.descriptions import TextFile


class VideoFeatures(NamedTuple):
    """Features of B clips: frames (B, T, E), pooled (B, E)."""

    frames: Tensor
    pooled: Tensor


class TextFeatures(NamedTuple):
    """Features of M captions: pooled (M, E), pooled before normalisation (M, E)."""

    pooled: Tensor
    projected: Tensor


class VideoTokens(NamedTuple):
    """B clips with all that text can read of them.

    Attributes:
        features: of the clips.
        memory: all tokens of all frames, frame after frame (B, T * L, D); those of padded frames are not read.
    """

    features: VideoFeatures
    memory: Memory


class TextTokens(NamedTuple):
    """M captions with all their tokens: features, and tokens (M, N, D)."""

    features: TextFeatures
    tokens: Tensor


class Backbone(Configurable, nn.Module, ABC):
    """A pretrained vision-language model with towers of blocks.

    Attributes:
        name: for people and folders, e.g. `clip-vit-b-16-quickgelu`.
        spec: what frames and captions must look like.
        embed_dim: E, the joint width.
        towers: by kind.
        logit_scale: scalar parameter, the logarithm of what multiplies cosines (BLIP derives it from its parameter).
        weights: provenance for the run record: `source`, `sha256`, and whatever else identifies the weights.
    """

    name: str
    spec: InputSpec
    embed_dim: int
    logit_scale: nn.Parameter
    weights: dict[str, str | None]
    #: False if features are all that it gives, so that `encode_video_tokens` and `encode_text_tokens` refuse
    has_tokens: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        #: the configuration of the architecture, whatever file it came from
        self.config: dict[str, Any] = {}
        #: set by a method that weighs the frames of a clip for each caption; see `weigh_frames`
        self.frame_attention: nn.Module | None = None

    def contents(self) -> dict[str, Any]:
        """What stands for the paths among the arguments where runs are compared: the content of the files.

        Weights are the same if their bytes and the pixels that they are fed are; what was read beside them is in these.
        """
        found: dict[str, Any] = {"image_size": self.spec.image_size}
        if self.config:
            canonical = json.dumps(self.config, sort_keys=True)
            found["architecture"] = f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
        if "file" not in self.weights:
            return found
        pixels = {"mean": list(self.spec.mean), "std": list(self.spec.std), "resize": self.spec.resize}
        return found | {"pretrained": {"sha256": self.weights["sha256"], **pixels}, "init_seed": None}

    def carried(self) -> dict[str, Any]:
        """Arguments as an adapter file holds them, where they are others: a small file by its content (`TextFile`)."""
        architecture = str(given_arguments(self).get("architecture", ""))
        if not architecture.endswith(".json"):
            return {}
        return {"architecture": TextFile(Path(architecture).name, json.dumps(self.config))}

    @property
    @abstractmethod
    def towers(self) -> dict[str, Tower]:
        """The towers by kind, `vision` first."""

    @abstractmethod
    def encode_video(self, clips: Clips) -> VideoFeatures:
        """Features of clips; each has at least one real frame."""

    @abstractmethod
    def encode_text(self, words: Words) -> TextFeatures:
        """Features of captions."""

    def encode_video_tokens(self, clips: Clips) -> VideoTokens:
        """`encode_video` with all tokens, which costs the shortcut in the last block.

        Raises:
            UsageError: if features are all that the backbone gives.
        """
        raise self._without_tokens()

    def encode_text_tokens(self, words: Words) -> TextTokens:
        """`encode_text` with all tokens, those of padding included, which costs the shortcut in the last block.

        Raises:
            UsageError: if features are all that the backbone gives.
        """
        raise self._without_tokens()

    def _without_tokens(self) -> UsageError:
        return UsageError(f"{self.name} is used as a whole and gives no tokens: choose another backbone")

    def fuse(self, words: Words, memory: Memory) -> Tensor:
        """States of captions that read a clip each, (B, N, D).

        Args:
            words: (B, N); the first token is replaced where the backbone has a token for this.
            memory: of `encode_video_tokens`; of one clip where all captions read it, which is cheaper than B copies.

        Raises:
            UsageError: if the backbone has no cross-attention.
        """
        raise self._without_fusion()

    def match(self, words: Words, memory: Memory) -> Tensor:
        """Logits (B, 2) of "no match" and "match" of captions and clips; arguments as in `fuse`.

        Raises:
            UsageError: if the backbone has no matching head.
        """
        raise self._without_fusion()

    def _without_fusion(self) -> UsageError:
        return UsageError(f"{self.name} has no layers in which text reads video: choose a BLIP backbone")

    def weigh_frames(self, memory: Memory, text: Tensor, frames: Tensor, mask: Tensor) -> Memory:
        """The memory as the method has each caption read it; the same one where it leaves keys as they are.

        Args:
            memory: of B clips, or of one that all captions read.
            text: (B, E), as `TextFeatures.pooled`.
            frames: (B, T, E), as `VideoFeatures.frames`, or (1, T, E).
            mask: (B, T) or (1, T) bool, True where a frame is real.
        """
        if self.frame_attention is None:
            return memory
        tokens = memory.tokens.shape[1] // frames.shape[1]  # L, of a frame
        factors = self.frame_attention(text, frames, mask, tokens)  # (B, T, L)
        return memory if factors is None else memory._replace(key_scale=factors.flatten(1))

    def fusion_parameters(self) -> list[nn.Parameter]:
        """The parameters that only `fuse` and what follows it read; none where the two encoders are all there is."""
        return []

    def scale_parameters(self) -> list[nn.Parameter]:
        """What `logit_scale` is made of, which only contrastive losses read."""
        return [self.logit_scale]

    def limit_logit_scale(self) -> None:
        """Keeps the logit scale where pretraining kept it; called after each optimiser step.

        CLIP: at most ln 100 (Radford et al. 2021, section 2.5).
        """
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(100))

    def projections(self) -> list[nn.Parameter]:
        """The parameters that map tower outputs to the joint space."""
        raise UsageError(f"{self.name} has no projections into a joint space")

    def heads(self) -> list[nn.Parameter]:
        """The parameters behind the towers (what `Linear` trains): the projections, and a matching head if any."""
        return self.projections()

    def embeddings(self) -> list[nn.Parameter]:
        """The parameters in front of the towers' first blocks: patches, tokens, positions and the norm after them."""
        raise UsageError(f"{self.name} does not tell its embeddings from its other parameters")

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames as the tower reads them: uint8 becomes float with the mean and deviation of `spec`."""
        if frames.is_floating_point():
            return frames
        shape = (3, 1, 1)
        mean = torch.tensor(self.spec.mean, device=frames.device).view(shape) * 255
        std = torch.tensor(self.spec.std, device=frames.device).view(shape) * 255
        return (frames - mean) / std

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for tower in self.towers.values():
            tower.checkpointing = enabled


def mean_over_frames(frames: Tensor, mask: Tensor) -> Tensor:
    """CLIP4Clip's mean pooling: L2-normalise each frame, mean over real frames, L2-normalise.

    Source: specs/mv_adapter.md section 7 (similarity).

    Args:
        frames: (B, T, E).
        mask: (B, T) bool; a clip without any real frame yields NaN, which evaluation refuses.
    """
    return nn.functional.normalize(mean_of_real(nn.functional.normalize(frames, dim=-1), mask), dim=-1)


def mean_of_real(frames: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames that are real: (B, T, E), mask (B, T) bool -> (B, E); NaN where none is."""
    weight = mask.to(frames.dtype)[..., None]  # (B, T, 1)
    return torch.where(mask[..., None], frames, 0).sum(1) / weight.sum(1)


def video_memory(x: Tensor, mask: Tensor) -> Memory:
    """What text reads of clips: tokens of all frames (B * T, L, D), mask (B, T) -> (B, T * L, D), frame after frame."""
    x = x.unflatten(0, mask.shape)  # (B, T, L, D)
    return Memory(x.flatten(1, 2), mask[:, :, None].expand(x.shape[:3]).flatten(1))


def require_patch(image_size: int | None, vision: dict[str, Any]) -> None:
    """Refuses frames that are smaller than the least that an architecture looks at.

    Args:
        image_size: side of a frame in pixels; null takes the architecture's.
        vision: `vision_cfg` of open_clip, or `vision_config` of transformers.
    """
    # A ResNet has a list of layers, and halves a frame five times.
    least = 2**5 if isinstance(vision.get("layers"), list) else vision.get("patch_size", 16)
    if image_size is not None and isinstance(least, int) and image_size < least:
        raise UsageError(f"backbone.image_size is {image_size}: this architecture needs at least {least} pixels")
