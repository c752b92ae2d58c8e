"""Random changes of training clips, before they are resized; one draw holds for all frames of a clip."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from petl_bench.errors import UsageError

#: one part of a recipe's name
_PART = re.compile(r"(m)(?:\d|10)|(n)[1-9]\d?|(p)(?:0\.\d*[1-9]\d*|1)|(mstd)\d+(?:\.\d+)?|(inc)[01]", re.ASCII)


class RandAugment:
    """RandAugment (Cubuk et al., 2020, arXiv 1909.13719) as timm does it, the same for all frames of a clip.

    `rand-m7-n4-mstd0.5-inc1` is what TempMe and DiscoVLA train with: 4 of 15 operations, with repetition (contrast,
    colour, inversion, rotation, shear, translation, ...), each applied with probability 0.5 and with a strength of 7 of
    10, give or take a standard deviation of 0.5; all of them grow with the strength. Geometry is bicubic and leaves
    grey behind. Source: LunarShen/DsicoVLA 6ace76f, tvr/dataloaders.

    Args:
        name: timm's notation: `rand`, then any of `-m0` to `-m10` (strength, 10 if not given), `-n1` to `-n99`
            (operations, 2), `-p` (probability of each, 0.5), `-mstd` (spread of the strength, 0) and `-inc1` (every
            operation grows with the strength).

    Raises:
        UsageError: for anything else.
    """

    def __init__(self, name: str) -> None:
        require_recipe(name)
        from timm.data.auto_augment import rand_augment_transform

        #: of one image; draws from the global generators of Python and NumPy
        self.transform = rand_augment_transform(name, {"interpolation": Image.Resampling.BICUBIC})

    def __call__(self, frames: np.ndarray, seed: int) -> np.ndarray:
        """The changed frames, uint8 (n, H, W, 3), of a clip; what is drawn follows from `seed` (below 2^32) alone."""
        changed = []
        with _generators_kept():
            for frame in frames:
                random.seed(seed)
                np.random.seed(seed)  # the one that timm draws from
                changed.append(np.asarray(self.transform(Image.fromarray(frame))))
        return np.stack(changed)


def require_recipe(name: str) -> None:
    """Refuses what is no notation of RandAugment; timm passes over what it does not know.

    Raises:
        UsageError: it is none.
    """
    first, *parts = name.split("-")
    known = [match[match.lastindex or 0] for part in parts if (match := _PART.fullmatch(part))]
    if first != "rand" or len(known) < len(parts) or len(set(known)) < len(known):
        raise UsageError(
            f"data.augmentation is {name!r}: give null, or rand followed by any of -m0 to -m10, -n1 to -n99, -p0.01 to "
            "-p1, -mstd0.5 and -inc1, each once, such as rand-m7-n4-mstd0.5-inc1"
        )


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leaves the global generators as they were: nothing else in the process may depend on what is drawn here."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
