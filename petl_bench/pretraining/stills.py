"""The stills that small backbones learn from: twins, which differ in one respect, with captions and questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from petl_bench.fixture.diagnostic.clips import (
    FRAMES,
    WORDINGS,
    Clip,
    any_clip,
    clip_pixels,
    clip_questions,
    looking_otherwise,
    tracks,
    with_swapped_colours,
)
from petl_bench.fixture.diagnostic.layout import SIDE, any_happening, only_tested
from petl_bench.fixture.diagnostic.pictures import (
    any_picture,
    cell,
    picture_captions,
    picture_pixels,
    picture_questions,
    twin,
)
from petl_bench.fixture.diagnostic.things import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Thing,
    another_ground,
    pixels_of,
)

_CAPTIONS = 4
#: twins of pictures for each one of frames of clips
_PICTURES_PER_CLIP = 4
#: what of a thing is told apart, and among how many
LOOKS = {"colour": len(COLOURS), "texture": len(TEXTURES), "size": len(SIZES), "column": 3, "row": 3}
#: streams of random numbers
TRAINING, HELD_OUT = 100, 101

Asked = list[tuple[str, str]]


class Stills(NamedTuple):
    """Stills in twins: 2i and 2i + 1 differ in one respect, and so do their captions.

    Attributes:
        pixels: uint8 (S, 3, side, side).
        captions: of each, as many as its twin has; those in the same place are worded alike.
        questions: of each, with the answers.
        looks: of each and each shape the numbers of its colour, texture, size, column and row, long (S, 7, 5); -1 where
            nothing has that shape.
    """

    pixels: Tensor
    captions: list[list[str]]
    questions: list[Asked]
    looks: Tensor


class _Still(NamedTuple):
    pixels: np.ndarray
    captions: list[str]
    questions: Asked
    looks: np.ndarray


def stills(count: int, seed: int, stream: int) -> Stills:
    """Generated stills; one twin in five is a frame of a clip, with the captions of the clip.

    These tell of motion that no frame shows, as captions of photographs do: a text encoder that has never had such
    words beside a picture puts captions of clips far from all of them. What acts in test clips of the diagnostic
    benchmark acts in none of these.

    Args:
        count: of stills, even.
        seed: determines them.
        stream: `TRAINING` or `HELD_OUT`, which have nothing in common.
    """
    found: list[_Still] = []
    for number in range(count // 2):
        rng = np.random.default_rng([seed, stream, number])
        found += _clip_twins(rng) if number % (_PICTURES_PER_CLIP + 1) == 0 else _picture_twins(rng)
    pixels = torch.from_numpy(np.stack([still.pixels for still in found])).permute(0, 3, 1, 2).contiguous()
    captions, questions = [still.captions for still in found], [still.questions for still in found]
    return Stills(pixels, captions, questions, torch.from_numpy(np.stack([still.looks for still in found])))


def _picture_twins(rng: np.random.Generator) -> list[_Still]:
    one = any_picture(rng)
    both = [one, twin(one, rng)]
    look = int(rng.integers(2**31))

    def captions(draw: np.random.Generator) -> list[str]:
        """Of both, worded alike."""
        wording = int(draw.integers(2**31))
        return [picture_captions(picture, np.random.default_rng(wording), 1)[0] for picture in both]

    told = _different(captions, rng)
    return [
        _Still(
            pixels_of(picture_pixels(picture, np.random.default_rng(look), SIDE))[0],
            captions,
            picture_questions(picture, rng),
            _looks(picture.things, [cell(place) for place in picture.places]),
        )
        for picture, captions in zip(both, told, strict=True)
    ]


def _looks(things: Sequence[Thing], cells: Sequence[tuple[int, int]]) -> np.ndarray:
    found = np.full((len(SHAPES), len(LOOKS)), -1)
    for thing, (column, row) in zip(things, cells, strict=True):
        names = (list(COLOURS).index(thing.colour), list(TEXTURES).index(thing.texture), list(SIZES).index(thing.size))
        found[list(SHAPES).index(thing.shape)] = *names, column, row
    return found


def _different(captions: Callable[[np.random.Generator], list[str]], rng: np.random.Generator) -> list[list[str]]:
    """Captions of two pictures that are worded alike, but tell what differs."""
    found: list[list[str]] = []
    while len(found) < _CAPTIONS:
        one, other = captions(rng)
        if one != other:
            found.append([one, other])
    return [list(own) for own in zip(*found, strict=True)]


def _clip_twins(rng: np.random.Generator) -> list[_Still]:
    both = _clips(rng, any_happening(rng))
    frame = int(rng.integers(FRAMES))
    return [
        _Still(
            pixels_of(clip_pixels(clip, SIDE)[frame]),
            [clip.caption(template) for template in range(WORDINGS)],
            clip_questions(clip)[1:],  # a still does not tell the rest
            _looks((clip.acting, clip.other), [cell(track[frame]) for track in tracks(clip)]),
        )
        for clip in both
    ]


def _clips(rng: np.random.Generator, happens: str) -> list[Clip]:
    while True:
        clip = any_clip(rng, happens)
        way = str(rng.choice(["look", "colours", "ground"]))
        if way == "look":
            other = looking_otherwise(clip, rng)
        elif way == "colours":
            other = with_swapped_colours(clip)
        else:
            other = replace(clip, ground=another_ground(clip.ground, rng))
        if not any(only_tested(one.acting) for one in (clip, other)):
            return [clip, other]
