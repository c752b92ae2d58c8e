"""What every backbone offers: an input specification, towers of replaceable blocks, features.

A method changes a backbone by replacing blocks (`Tower.replace`) or layers inside them; a task reads features
(`encode_video`, `encode_text`). Neither needs to know whether CLIP or BLIP stands behind.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from petl_bench.configurable import Configurable, given_arguments
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips, InputSpec, Words
from petl_bench.nn.recomputation import Recomputation
from petl_bench.nn.transformer import Memory, Modality, Tower
from petl_bench.storage.descriptions import TextFile


class VideoFeatures(NamedTuple):
    """Features of B clips.

    Attributes:
        frames: (B, T, E); None where the backbone has no feature of each frame (`Backbone.has_frames`).
        pooled: (B, E).
    """

    frames: Tensor | None
    pooled: Tensor

    def by_frame(self) -> Tensor:
        """The features of frames, (B, T, E).

        Raises:
            UsageError: if there are none.
        """
        if self.frames is None:
            raise UsageError("this backbone gives features of whole clips, none of each frame: choose another one")
        return self.frames


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


class JointSpace(ABC):
    """A space in which features of video and text are compared by their cosines.

    A backbone that has one names it before `Backbone` among its bases, and is its own `joint`.

    Attributes:
        logit_scale: scalar, the logarithm of what multiplies cosines.
    """

    logit_scale: Tensor

    @property
    def joint(self) -> Self:
        """This space: the capability of the backbone."""
        return self

    def scale_parameters(self) -> list[nn.Parameter]:
        """What `logit_scale` is made of, which only contrastive losses read."""
        assert isinstance(self.logit_scale, nn.Parameter)
        return [self.logit_scale]

    def limit_logit_scale(self) -> None:
        """Keeps the logit scale where pretraining kept it; called after each optimiser step.

        CLIP: at most ln 100 (Radford et al. 2021, section 2.5).
        """
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(100))


class Fusion(Protocol):
    """Text that reads video."""

    #: set by a method that weighs the frames of a clip for each caption, see `weigh_frames`
    frame_attention: nn.Module | None

    def fuse(self, words: Words, memory: Memory) -> Tensor:
        """States of texts that read a clip each, (B, N, D).

        Args:
            words: (B, N); the first token is replaced where the backbone has a token for this.
            memory: of `encode_video_tokens`, of which `select` says which clip each text reads; of one clip where all
                texts read it. Neither needs copies.
        """
        ...

    def weigh_frames(self, memory: Memory, text: Tensor, frames: Tensor, mask: Tensor) -> Memory:
        """The memory as the method has each caption read it; the same one where it leaves keys as they are.

        Args:
            memory: of B clips, or of one that all captions read.
            text: (B, E), as `TextFeatures.pooled`.
            frames: (B, T, E), as `VideoFeatures.frames`, or (1, T, E).
            mask: (B, T) or (1, T) bool, True where a frame is real.
        """
        ...

    def fusion_parameters(self) -> list[nn.Parameter]:
        """The parameters that only `fuse` and what follows it read."""
        ...


class Matching(Protocol):
    """A head that tells whether a caption fits a clip."""

    def match(self, words: Words, memory: Memory) -> Tensor:
        """Logits (B, 2) of "no match" and "match" of captions and clips; arguments as in `Fusion.fuse`."""
        ...


class AnswerDecoder(Protocol):
    """Writes answers to questions that have read a clip, token after token."""

    @property
    def start_token(self) -> int:
        """Id that every answer begins with."""
        ...

    @property
    def end_token(self) -> int:
        """Id that every answer ends with."""
        ...

    pad_token: int

    def decode(self, words: Words, memory: Memory) -> Tensor:
        """Logits of the token after each one of the answers, (A, n, V).

        Args:
            words: answers (A, n); the first token becomes the start token.
            memory: states (A, N, D) of the questions, as `Fusion.fuse` gives them, and which are tokens of the
                question; of one question where all answers belong to it.
        """
        ...

    def decode_next(self, ids: Tensor, memory: Memory) -> Tensor:
        """Logits of the token after the last one, (A, V); ids (A, n) without padding, memory as in `decode`."""
        ...

    def answer_words(self, answers: Sequence[str]) -> Words:
        """Answers as they are decoded, (A, n) with the start token first, on the decoder's device."""
        ...

    def answer_texts(self, ids: Tensor) -> list[str]:
        """What ids (A, n) say, without special tokens."""
        ...


#: what a backbone may have or not, by the attribute that is None where it has it not
CAPABILITIES = {
    "joint": "a joint space of video and text",
    "fusion": "layers in which text reads video",
    "matching": "a head that matches captions with clips",
    "answers": "an answer decoder",
}


class Backbone(Configurable, nn.Module, ABC):
    """A pretrained vision-language model with towers of blocks.

    Attributes:
        name: for people and folders, e.g. `clip-vit-b-16-quickgelu`.
        spec: what frames and captions must look like.
        embed_dim: E, the joint width.
        towers: by name.
        weights: provenance for the run record: `source`, `sha256`, and whatever else identifies the weights.
    """

    name: str
    spec: InputSpec
    embed_dim: int
    weights: dict[str, str | None]
    #: whether it gives a feature of each frame
    has_frames: ClassVar[bool] = True
    #: False if features are all that it gives, so that `encode_video_tokens` and `encode_text_tokens` refuse
    has_tokens: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        #: the configuration of the architecture, whatever file it came from
        self.config: dict[str, Any] = {}

    def contents(self) -> dict[str, Any]:
        """The content of the files, and sizes that follow from them.

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

    @classmethod
    @abstractmethod
    def tiny(cls, init_seed: int = 0) -> Backbone:
        """A small one with random weights, for tests and for `petl-bench list matrix`.

        Args:
            init_seed: of the weights.
        """

    @classmethod
    def whereabouts(cls, architecture: str, pretrained: str | None) -> str:
        """Where weights are, in a few words; nothing is fetched.

        Args:
            architecture: as of the constructor.
            pretrained: as of the constructor.

        Raises:
            UsageError: nothing is called so.
            CheckpointError: they are neither here nor to be had.
        """
        return "random" if pretrained is None else f"{pretrained}: looked for when the run begins"

    def carried(self) -> dict[str, Any]:
        architecture = str(given_arguments(self).get("architecture", ""))
        if not architecture.endswith(".json"):
            return {}
        return {"architecture": TextFile(Path(architecture).name, json.dumps(self.config))}

    @property
    @abstractmethod
    def towers(self) -> dict[str, Tower]:
        """The towers by name, what reads video first."""

    def encoders(self, modality: Modality) -> list[Tower]:
        """The towers that encode a modality; one that reads both is one of vision only, so that it is adapted once."""
        towers = [tower for tower in self.towers.values() if tower.encodes]
        return [tower for tower in towers if modality == ("vision" if "vision" in tower.reads else "text")]

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

    @property
    def joint(self) -> JointSpace | None:
        """The space in which its features of video and text are compared."""
        return None

    @property
    def fusion(self) -> Fusion | None:
        """Its layers in which text reads video."""
        return None

    @property
    def matching(self) -> Matching | None:
        """Its head that matches captions with clips."""
        return None

    @property
    def answers(self) -> AnswerDecoder | None:
        """Its answer decoder."""
        return None

    def projections(self) -> list[nn.Parameter]:
        """The parameters that map tower outputs to the joint space."""
        raise UsageError(f"{self.name} has no projections into a joint space")

    def heads(self) -> list[nn.Parameter]:
        """The parameters behind the towers (what `Linear` trains): the projections, and a matching head if any."""
        return self.projections()

    def embeddings(self) -> list[nn.Parameter]:
        """The parameters in front of the towers' first blocks: patches, tokens, positions and the norm after them."""
        raise UsageError(f"{self.name} does not distinguish its embeddings from its other parameters")

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames as the tower reads them: uint8 becomes float with the mean and deviation of `spec`."""
        if frames.is_floating_point():
            return frames
        return frames.sub(_channels(self.spec.mean, frames.device)).div_(_channels(self.spec.std, frames.device))

    def published(self) -> dict[str, bytes]:
        """Its weights and what describes them, as files of the library that it comes from, by name.

        The same class reads them back from a folder (`pretrained`), and so does the library.

        Raises:
            UsageError: there is no such form, or a method has put modules into it.
        """
        raise UsageError(f"{self.name} has no form of its own to be written in: keep the adapter")

    def set_gradient_checkpointing(self, what: Recomputation) -> None:
        """Sets what is recomputed in the backward pass instead of being kept.

        Args:
            what: `true` for whole blocks, `activations` for LN2, first layer and activation of each block's
                feed-forward branch alone, `false` for nothing. Gradients are equal to the last bit.
        """
        for tower in self.towers.values():
            tower.set_recomputation(what)


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """One number for each channel of pixels from 0 to 255, (3, 1, 1).

    Written on the device: what is copied there makes the CPU wait.
    """
    return torch.stack([torch.full((1, 1), value, device=device) for value in values]) * 255


def mean_over_frames(frames: Tensor, mask: Tensor) -> Tensor:
    """CLIP4Clip's mean pooling: L2-normalise each frame, mean over real frames, L2-normalise.

    Source: CLIP4Clip (Luo et al., arXiv 2104.08860), `meanP` of its official code; MV-Adapter does the same.

    Args:
        frames: (B, T, E).
        mask: (B, T) bool; a clip without any real frame yields NaN, which evaluation refuses.
    """
    return nn.functional.normalize(mean_of_real(nn.functional.normalize(frames, dim=-1), mask), dim=-1)


def mean_of_real(frames: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames that are real, (B, E), equal to the bit in whatever order they come.

    Args:
        frames: (B, T, E).
        mask: (B, T) bool; NaN where none is real.
    """
    weight = mask.to(frames.dtype)[..., None]  # (B, T, 1)
    # Another order of addends would be rounded otherwise, and a clip and its reverse would not tie.
    addends = torch.where(mask[..., None], frames, 0).sort(1).values
    return addends.sum(1) / weight.sum(1)


def video_memory(x: Tensor, mask: Tensor) -> Memory:
    """What text reads of clips: tokens of all frames (B * T, L, D), mask (B, T) -> (B, T * L, D), frame after frame."""
    return memory_of(rearrange(x, "(b t) l d -> b (t l) d", b=len(mask)), mask)


def memory_of(tokens: Tensor, mask: Tensor) -> Memory:
    """The same of tokens that lie frame after frame: (B, T * L, D), mask (B, T)."""
    return Memory(tokens, repeat(mask, "b t -> b (t l)", l=tokens.shape[1] // mask.shape[1]))


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
