"""What captions tell of motion, read from texts alone: stills show none of it.

A text encoder that has never been asked for it gives `to the left` and `to the right` the same features, and as long as
it does, a method that learns from clips has no reason to tell them apart either.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.fixture.diagnostic.clips import DIRECTIONS, MANNERS, TEMPLATES, WORDINGS, Clip, any_clip
from petl_bench.fixture.diagnostic.layout import any_happening, only_tested
from petl_bench.fixture.diagnostic.things import SHAPES

#: captions of a step
_READ = 32
#: how many of them are brief
_BRIEF = 0.5


class Motions(nn.Module):
    """Two linear layers: what happens in a clip, and the shape of what acts, if its caption tells that.

    Args:
        width: of features, before they are normalised.
        seed: of their first weights.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.happens = nn.Linear(width, len(_HAPPENINGS))
            self.acts = nn.Linear(width, len(SHAPES))

    def loss(self, encode: Callable[[list[str]], Tensor], rng: np.random.Generator) -> Tensor:
        """Cross-entropies of captions of clips that are drawn now; what acts in test clips acts in none of them.

        Args:
            encode: gives features (B, E) of texts.
            rng: draws them.
        """
        texts, happens, acts = zip(*(_told(rng) for _ in range(_READ)), strict=True)
        features = encode(list(texts))
        with torch.autocast(features.device.type, enabled=False):
            told = F.cross_entropy(self.happens(features.float()), torch.tensor(happens))
            return told + F.cross_entropy(self.acts(features.float()), torch.tensor(acts), ignore_index=-1)


def _happening(clip: Clip) -> tuple[str, str, str]:
    """What its caption tells of what happens."""
    return clip.happens, clip.how, clip.to if clip.happens == "moves" else ""


_HAPPENINGS = [
    (happens, how, to)
    for happens in TEMPLATES
    for how in MANNERS[happens]
    for to in (DIRECTIONS if happens == "moves" else [""])
]


def _told(rng: np.random.Generator) -> tuple[str, int, int]:
    """A caption of a clip, and the numbers of what happens and of the shape that acts, -1 if the caption is silent."""
    clip = any_clip(rng, any_happening(rng))
    while only_tested(clip.acting):
        clip = any_clip(rng, any_happening(rng))
    brief, template = rng.random() < _BRIEF, int(rng.integers(WORDINGS))
    silent = brief and clip.happens != "in turn"
    acts = -1 if silent else list(SHAPES).index(clip.acting.shape)
    told = clip.brief_caption(template) if brief else clip.caption(template)
    return told, _HAPPENINGS.index(_happening(clip)), acts
