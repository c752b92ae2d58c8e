"""What a backbone expects of frames and captions: all that data and backbones know of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from petl_bench.errors import UsageError

Resize = Literal["shorter_side_crop", "squash"]


Tokenizer = Callable[[Sequence[str], int], tuple[Tensor, Tensor]]


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

    def tokenize(self, captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Token ids (M, max_words) and their mask; longer captions are cut and keep their end token.

        Raises:
            UsageError: if `max_words` exceeds the context the backbone was trained with.
        """
        if not 2 < max_words <= self.context_length:
            raise UsageError(f"max_words is {max_words}: this backbone takes 3 to {self.context_length}")
        return self.tokenizer(captions, max_words)
