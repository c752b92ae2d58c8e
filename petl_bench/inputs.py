"""What backbones are given, and what they expect of it: all that data and backbones know of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from petl_bench.errors import UsageError

Resize = Literal["shorter_side_crop", "squash"]

#: how frames are chosen from a grid, see `petl_bench.data.sampling`; the last three draw random numbers
Sampling = Literal[
    "head",
    "tail",
    "uniform",
    "left_edge",
    "segment_middle",
    "blip_uniform",
    "filled",
    "segment_random",
    "blip_random",
    "blip_headtail",
]


class Clips(NamedTuple):
    """B clips of T frames.

    Attributes:
        frames: uint8 (B, T, 3, H, W), or float already normalised; zeros where `mask` is False.
        mask: bool (B, T), True where a frame is real.
        times: float (B, T), seconds from the beginning of the clip (of the moment, where it is part of a video) to
            that of the frame. 0 where `mask` is False, for still images, and where a file tells no times.
    """

    frames: Tensor
    mask: Tensor
    times: Tensor

    def select(self, rows: Tensor | slice | int) -> Clips:
        """Some of the clips; one of them, without its dimension, by its place."""
        return Clips(*(part[rows] for part in self))

    def reversed(self) -> Clips:
        """The same frames in the opposite order, padding still at the end; also of one clip without its dimension.

        They lie as far apart as before: the last frame is now the first one, and has its time.
        """
        places, count = torch.arange(self.mask.shape[-1], device=self.mask.device), self.mask.sum(-1, keepdim=True)
        order = torch.where(places < count, count - 1 - places, places)  # (B, T)
        ends = self.times.take_along_dim((count - 1).clamp(min=0), -1) + self.times[..., :1]
        return Clips(
            self.frames.take_along_dim(order[..., None, None, None], -4),
            self.mask,
            torch.where(self.mask, ends - self.times.take_along_dim(order, -1), self.times),
        )


class Words(NamedTuple):
    """M texts of N tokens.

    Attributes:
        ids: long (M, N).
        mask: bool (M, N), True for start, words and end.
        most: no text has more tokens; None where nobody has counted. Loaders count (`counted`), since a GPU would have
            to be waited for.
    """

    ids: Tensor
    mask: Tensor
    most: int | None = None

    def counted(self) -> Words:
        """The same with the tokens of the longest text as `most`."""
        return self._replace(most=int(self.mask.any(0).sum()))

    def select(self, rows: Tensor | slice) -> Words:
        """Some of the texts, which are not counted: all of them may be shorter than the longest of these."""
        return Words(self.ids[rows], self.mask[rows])

    def to(self, device: torch.device) -> Words:
        """The same on a device."""
        return Words(sent(self.ids, device), sent(self.mask, device), self.most)

    def without_padding(self) -> Words:
        """Without the places that are padding in all rows (those behind `most`, if it is known), which nobody reads."""
        if torch.compiler.is_exporting():  # whoever calls what is exported does this before
            return self
        ids, mask, most = self if self.most is not None else self.counted()
        return Words(ids[:, :most], mask[:, :most], most)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on another device; a GPU is not waited for, which it takes pinned memory for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


#: what tokenisers are told apart by: case, punctuation, an apostrophe, a number, a rare word
_SENTENCE = "A man's 2 dogs, Rex & Bo, are zigzagging: they (both) chase a ball in the snow!"
_SENTENCE_WORDS = 32

Tokenizer = Callable[[Sequence[str], int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip are taken.

    Attributes:
        count: T, the most frames.
        sampling: how they are chosen from the grid.
        rate: moments per second of the grid, of which the frames are considered (CLIP4Clip: 1); None considers every
            frame once.
    """

    count: int
    sampling: Sampling
    rate: int | None


@dataclass(frozen=True)
class Moment:
    """The part of a video that is a clip, in seconds. Whole seconds are kept as whole numbers.

    Attributes:
        start: first second; None for the beginning of the video.
        end: last second; None for the end of the video.

    Raises:
        ValueError: unless 0 <= start < end.
    """

    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        first = self.start or 0
        if not 0 <= first < math.inf or (self.end is not None and not first < self.end < math.inf):
            raise ValueError(f"start {self.start} and end {self.end} must be seconds with 0 <= start < end")
        # 7 and 7.0 are one moment, in names of cached frames and in hashes, too.
        for name, second in (("start", self.start), ("end", self.end)):
            if isinstance(second, float) and second.is_integer():
                object.__setattr__(self, name, int(second))

    @property
    def is_of_whole_seconds(self) -> bool:
        """Whether both ends, where it has them, are whole seconds."""
        return not isinstance(self.start, float) and not isinstance(self.end, float)

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole video."""
        return self.start is None and self.end is None

    def __str__(self) -> str:
        if self.is_whole:
            return "as a whole"
        return f"from second {self.start or 0} to {'the end' if self.end is None else self.end}"


#: a video as it is
WHOLE = Moment()


@dataclass(frozen=True)
class InputSpec:
    """What a backbone expects of frames and captions; picklable, so that loader workers can hold it.

    Attributes:
        image_size: side of a square frame in pixels.
        mean: per channel, of frames scaled to [0, 1].
        std: per channel, of frames scaled to [0, 1].
        resize: how a frame becomes square.
        context_length: the most tokens a caption may have.
        tokenizer: `(captions, max_words) -> ids (M, N) long, mask (M, N) bool`, N = max_words.
        text_words: words of a text that `tokenizer` keeps before it makes tokens of them; None for all.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize
    context_length: int
    tokenizer: Tokenizer
    text_words: int | None = None

    def tokenize(self, captions: Sequence[str], max_words: int) -> Words:
        """Tokens of M captions, (M, max_words); longer captions are cut and keep their end token.

        Raises:
            UsageError: if `max_words` exceeds the context the backbone was trained with.
        """
        if not 2 < max_words <= self.context_length:
            raise UsageError(f"max_words is {max_words}: this backbone takes 3 to {self.context_length}")
        return Words(*self.tokenizer(captions, max_words))

    def record(self) -> dict[str, Any]:
        """All of it as plain values; for the tokeniser stand the tokens of a sentence, cleaning and template included.

        Raises:
            CheckpointError: if the tokeniser cannot be read.
        """
        words = self.tokenize([_SENTENCE], min(_SENTENCE_WORDS, self.context_length))
        return {
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            "context_length": self.context_length,
            "text_words": self.text_words,
            "sentence": _SENTENCE,
            "tokens": words.ids[words.mask].tolist(),
        }
