"""The stills that small backbones learn from: the same each time, in twins, without what acts in test clips."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_bench.fixture.diagnostic.layout import only_tested
from petl_bench.fixture.diagnostic.things import COLOURS, SHAPES, TEXTURES, Thing
from petl_bench.pretraining.motions import Motions
from petl_bench.pretraining.stills import HELD_OUT, TRAINING, Stills, stills

COUNT = 60


@pytest.fixture(scope="module")
def shown() -> Stills:
    return stills(COUNT, 0, TRAINING)


def of_clips(shown: Stills) -> list[int]:
    """Rows whose stills are frames of clips: the first twins of every five."""
    return [row for row in range(len(shown.captions)) if row // 2 % 5 == 0]


def acting(caption: str) -> Thing:
    """Colour and shape that a caption, in its first wording, names first."""
    words = re.findall("[a-z]+", caption)
    colour, shape = (next(word for word in words if word in names) for names in (COLOURS, SHAPES))
    return Thing("big", colour, "plain", shape)


def test_the_seed_and_the_stream_determine_them(shown: Stills) -> None:
    fewer = stills(12, 0, TRAINING)
    assert torch.equal(fewer.pixels, shown.pixels[:12])
    assert (fewer.captions, fewer.questions) == (shown.captions[:12], shown.questions[:12])
    for other in (stills(12, 1, TRAINING), stills(12, 0, HELD_OUT)):
        assert not any(torch.equal(*both) for both in zip(other.pixels, fewer.pixels, strict=True))


def test_twins_follow_each_other_and_each_caption_tells_them_apart(shown: Stills) -> None:
    assert shown.pixels.shape == (COUNT, 3, 64, 64)
    assert shown.pixels.dtype == torch.uint8
    assert len(shown.captions) == len(shown.questions) == COUNT
    for row in range(0, COUNT, 2):
        assert not torch.equal(shown.pixels[row], shown.pixels[row + 1]), row
        for one, other in zip(shown.captions[row], shown.captions[row + 1], strict=True):
            assert one != other
            # worded alike: the words that differ are those of what differs
            assert len({*one.split()} ^ {*other.split()}) < len(one.split())


def test_one_in_five_is_a_frame_of_a_clip_in_which_nothing_acts_that_acts_in_test_clips(shown: Stills) -> None:
    rows = of_clips(shown)
    assert len(rows) == COUNT // 5
    told = [shown.captions[row][0] for row in rows]
    assert all(re.search("moves|flashes", caption) for caption in told)
    assert not [caption for caption in told if only_tested(acting(caption))]
    others = [shown.captions[row] for row in range(COUNT) if row not in rows]
    assert not [caption for own in others for caption in own if re.search("moves|flashes", caption)]
    assert [own for own in others if only_tested(acting(own[0]))], "at rest these are shown"


def test_no_question_about_a_frame_asks_what_only_the_clip_tells(shown: Stills) -> None:
    asked = {question for row in of_clips(shown) for question, _ in shown.questions[row]}
    assert asked
    assert not [question for question in asked if re.search("move|flash", question)]


def test_motion_is_read_from_captions_that_tell_it_and_what_acts_is_of_training_clips() -> None:
    read: list[str] = []

    def encode(texts: list[str]) -> Tensor:
        read.extend(texts)
        return torch.tensor([[float("left" in text), float("right" in text), 1.0] for text in texts])

    motions = Motions(3, seed=0)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(motions.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        value = motions.loss(encode, rng)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 0.3
    assert any("towards" in text for text in read)
    assert any("three times" in text for text in read)
    full = [text for text in read if any(f" {texture} " in text for texture in TEXTURES)]
    assert full
    assert not [text for text in full if only_tested(acting(text))]
